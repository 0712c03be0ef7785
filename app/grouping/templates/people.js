// The people page. Everything shown is built from the JSON block `#gallery` with text nodes and attributes, never
// from markup, so a name can't become code. Addresses within the page:
//   #people   #unassigned   #skipped   #person/<person id>   #person/<person id>/<image id>   #unassigned/<image id>

const CHUNK = 96; // tiles built at a time; more follow when the end of the list comes near

const gallery = JSON.parse(document.getElementById("gallery").textContent);
const home = document.title;
const viewer = document.getElementById("viewer");
const filter = document.getElementById("filter");

const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

const people = gallery.people.map((person) => ({
  ...person,
  href: `#person/${encodeURIComponent(person.id)}`,
  folded: fold(`${person.label} ${person.id}`),
}));
const unassigned = { href: "#unassigned", first: gallery.unassigned.first, end: gallery.faces.length };
const groupOf = (face) => people[gallery.faces[face][1]] ?? unassigned;

const personById = new Map(people.map((person) => [person.id, person]));
// A link to somebody who was merged leads to who they are now.
for (const [id, now] of Object.entries(gallery.merged)) personById.set(id, personById.get(now));
const facesOfPhoto = gallery.photos.map(() => []);
gallery.faces.forEach(([photo], face) => facesOfPhoto[photo].push(face));

const photoHref = (group, photo) => `${group.href}/${encodeURIComponent(gallery.photos[photo][0])}`;
const range = (first, end) => Array.from({ length: end - first }, (_, index) => first + index);
const facesOf = (group) => range(group.first, group.end);
const photosOf = (group) => [...new Set(facesOf(group).map((face) => gallery.faces[face][0]))];

// ---------------------------------------------------------------------------------------------- building blocks

const $ = (selector, within = document) => within.querySelector(selector);

function node(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function placeholder(name, note) {
  return node("span", { class: "placeholder", role: "img", "aria-label": `${name}: ${note}` }, node("bdi", {}, name));
}

/** An image that loads when it comes near, and gives way to a placeholder where it can't be loaded. */
function picture(src, alt, missing) {
  if (!src) return missing();
  const image = node("img", { alt, loading: "lazy", decoding: "async", draggable: "false" });
  image.addEventListener("error", () => {
    image.closest(".frame")?.classList.add("missing");
    image.replaceWith(missing());
  });
  image.src = src;
  return image;
}

/** A face cut out of its photo's preview, as a square with some of what is around it. */
function cutOut(face, alt, missing) {
  const [photo, , left, top, width, height] = gallery.faces[face];
  const [, src, widthPx, heightPx] = gallery.photos[photo];
  if (!src || height === undefined) return missing();
  const side = 1.6 * Math.max((width / 100) * widthPx, (height / 100) * heightPx, 1);
  const image = picture(src, alt, missing);
  Object.assign(image.style, {
    width: `${(100 * widthPx) / side}%`,
    left: `${50 - (100 * ((left + width / 2) / 100) * widthPx) / side}%`,
    top: `${50 - (100 * ((top + height / 2) / 100) * heightPx) / side}%`,
  });
  return node("span", { class: "cut-out" }, image);
}

/** The cover stands beside its person's name, so it is silent for screen readers. */
function cover(person) {
  const initial = () => node("span", { class: "initial" }, [...person.label][0].toUpperCase());
  return node("span", { class: "cover", "aria-hidden": "true" }, picture(person.cover, "", initial));
}

/** Fill `list` with `build(item)`, a chunk at a time, as the reader comes near its end. */
function fill(list, items, build) {
  list.stop?.();
  list.replaceChildren();
  const sentinel = node("div", { class: "sentinel" });
  (list.closest("table") ?? list).after(sentinel);
  let built = 0;
  const observer = new IntersectionObserver(
    ([entry]) => {
      if (!entry.isIntersecting) return;
      addChunk();
      // Observing anew reports again where a tall screen still shows the end.
      observer.unobserve(sentinel);
      if (built < items.length) observer.observe(sentinel);
    },
    { rootMargin: "800px" },
  );
  const addChunk = () => {
    list.append(...items.slice(built, built + CHUNK).map(build));
    built = Math.min(built + CHUNK, items.length);
  };
  list.stop = () => {
    observer.disconnect();
    sentinel.remove();
  };
  addChunk();
  if (built < items.length) observer.observe(sentinel);
}

// ------------------------------------------------------------------------------------------------ photos and boxes

function photoText(photo) {
  const names = [...new Set(facesOfPhoto[photo].map(groupOf))].map((group) => group.label).filter(Boolean);
  return `${gallery.photos[photo][0]}${names.length ? `, with ${names.join(", ")}` : ""}`;
}

/** A face's box in percent of the upright photo: a frame for the group shown, a link for everyone else. */
function faceBox(face, group) {
  const [, , left, top, width, height] = gallery.faces[face];
  const owner = groupOf(face);
  let box;
  if (owner === group) box = node("span", { class: "box own" });
  else if (owner === unassigned) box = node("span", { class: "box unknown" });
  else box = node("a", { class: "box", href: owner.href, "aria-label": owner.label, "data-label": owner.label });
  Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
  return box;
}

function frame(photo, group, href) {
  const [imageId, src] = gallery.photos[photo];
  const image = picture(src, photoText(photo), () => placeholder(imageId, "photo not available"));
  const boxes = facesOfPhoto[photo].filter((face) => gallery.faces[face].length > 2);
  const content = href ? node("a", { class: "open", href }, image) : image;
  return node("div", { class: "frame" }, content, ...boxes.map((face) => faceBox(face, group)));
}

function setSize(element, photo) {
  const [, , width, height] = gallery.photos[photo];
  element.style.setProperty("--ratio", width && height ? width / height : 1.5);
  element.style.setProperty("--width", `${width || 900}px`);
  return element;
}

// ------------------------------------------------------------------------------------------------------- the views

function facts(person) {
  const counts = [counted(person.photos, "photo", "photos"), counted(person.faces, "face", "faces")];
  return counts.map((text) => node("span", {}, text));
}

function personTile(person) {
  const name = node("span", { class: "name", dir: "auto" }, person.label);
  const counts = node("span", { class: "facts muted" }, ...facts(person));
  return node("li", {}, node("a", { href: person.href }, cover(person), name, counts));
}

function photoTile(photo, group) {
  const caption = node("figcaption", { class: "muted", dir: "auto" }, gallery.photos[photo][0]);
  const tile = node("li", { "data-photo": photo });
  tile.append(node("figure", {}, frame(photo, group, photoHref(group, photo)), caption));
  return setSize(tile, photo);
}

function faceTile(face) {
  const photo = gallery.faces[face][0];
  const imageId = gallery.photos[photo][0];
  const { crops, why } = gallery.unassigned;
  const reason = why[face - unassigned.first];
  const alt = reason ? `A face in ${imageId}. ${reason}` : `A face in ${imageId}`;
  const missing = () => placeholder(imageId, "face not available");
  const crop = crops[face - unassigned.first];
  const image = crop ? picture(crop, alt, missing) : cutOut(face, alt, missing);
  const title = reason ? `${imageId}: ${reason}` : imageId;
  return node("li", { "data-photo": photo }, node("a", { href: photoHref(unassigned, photo), title }, image));
}

function skippedRow([imageId, status, reason]) {
  // The roles are stated because a phone lays rows out as blocks, which takes them away in some browsers.
  const name = node("th", { scope: "row", role: "rowheader", dir: "auto" }, imageId);
  const cell = (text) => node("td", { role: "cell", dir: "auto" }, text);
  return node("tr", { role: "row" }, name, cell(status), cell(reason));
}

function showPeople() {
  const wanted = fold(filter.value.trim());
  const found = people.filter((person) => person.folded.includes(wanted));
  let text = "";
  if (!people.length) text = "No people yet. They appear here once faces that belong together have been found.";
  else if (wanted) text = found.length ? `${found.length} of ${counted(people.length, "person", "people")}` : "Nobody has this name or id.";
  $("#found").textContent = text;
  fill($(".people"), found, personTile);
}

let shownPerson;

function showPerson(person) {
  if (shownPerson === person) return;
  shownPerson = person;
  $("#person-cover").replaceChildren(cover(person));
  $("#person-name").textContent = person.label;
  $("#person-id").textContent = person.id;
  $("#person-counts").replaceChildren(...facts(person));
  fill($(".photos"), photosOf(person), (photo) => photoTile(photo, person));
}

function showLists() {
  const faces = facesOf(unassigned);
  $("[data-view=unassigned] .note").textContent = faces.length
    ? "Faces that are too unclear to tell whose they are. Point at one to read why."
    : "Every face belongs to a person.";
  fill($(".faces"), faces, faceTile);
  $("[data-view=skipped] .note").textContent = gallery.skipped.length
    ? "Photos that added no face, and why."
    : "No photo was skipped.";
  $("table").hidden = !gallery.skipped.length;
  fill($("tbody"), gallery.skipped, skippedRow);
}

function showPhoto(photo, group) {
  const photos = photosOf(group);
  const at = photos.indexOf(photo);
  $("#viewer-name").textContent = gallery.photos[photo][0];
  $("#viewer-position").textContent = `${at + 1} of ${photos.length}`;
  $("#viewer-stage").replaceChildren(setSize(frame(photo, group), photo));
  const others = [...new Set(facesOfPhoto[photo].map(groupOf))].filter((owner) => owner !== unassigned);
  const link = (owner) => node("a", { href: owner.href }, cover(owner), node("bdi", {}, owner.label));
  $("#viewer-people").replaceChildren(...others.map((owner) => node("li", {}, link(owner))));
  $("#viewer-close").href = group.href;
  for (const [id, step] of [["#viewer-previous", -1], ["#viewer-next", 1]]) {
    const neighbour = photos[at + step];
    if (neighbour === undefined) $(id).removeAttribute("href");
    else $(id).href = photoHref(group, neighbour);
  }
  if (!viewer.open) viewer.showModal();
}

// --------------------------------------------------------------------------------------------------------- routing

let route = {};
const scrolled = new Map();

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function readRoute() {
  const [view, ...ids] = location.hash.slice(1).split("/").map(decode);
  const group = view === "unassigned" ? unassigned : personById.get(ids.shift());
  const photo = group && photosOf(group).find((index) => gallery.photos[index][0] === ids[0]);
  if (view === "person" && group) return { view, group, photo };
  if (view === "unassigned") return { view, group, photo };
  return { view: view === "skipped" ? view : "people" };
}

function follow() {
  const before = route;
  route = readRoute();
  if (before.view) scrolled.set(before.view, scrollY);
  if (route.view === "person") showPerson(route.group);
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== route.view;
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.hash === `#${route.view === "person" ? "people" : route.view}`;
    link.setAttribute("aria-current", current ? "page" : "false");
  }
  $("search").hidden = route.view !== "people" || !people.length;
  document.title = route.view === "person" ? `${route.group.label} · ${home}` : home;
  if (route.photo !== undefined) return showPhoto(route.photo, route.group);
  viewer.close();
  if (before.view) settle(before);
}

/** Put the reader back where they were: scroll position, and the tile that they came from. */
function settle(before) {
  const section = $(`[data-view=${route.view}]`);
  const sameList = before.view === route.view && before.group === route.group;
  if (!sameList) scrollTo({ top: route.view === "person" ? 0 : scrolled.get(route.view) ?? 0, behavior: "instant" });
  const selector = sameList ? `[data-photo="${before.photo}"] a` : `a[href="${CSS.escape(before.group?.href ?? "")}"]`;
  const cameFrom = $(selector, section);
  (cameFrom || $("h2", section))?.focus({ preventScroll: !cameFrom });
}

function stepFocus(step) {
  const list = $("[data-view]:not([hidden]) [data-arrows]");
  const tile = list && document.activeElement.closest("[data-arrows] > li");
  const next = tile ? (step < 0 ? tile.previousElementSibling : tile.nextElementSibling) : list?.firstElementChild;
  next?.querySelector("a").focus();
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target === filter) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && viewer.open) $(step < 0 ? "#viewer-previous" : "#viewer-next").click();
  else if (step) stepFocus(step);
  else if (event.key === "Escape" && !viewer.open && route.view !== "people") location.hash = "people";
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-replace]");
  if (!link) return;
  event.preventDefault();
  if (link.hash) location.replace(link.hash); // leafing through photos leaves one step in the history, not forty
});

viewer.addEventListener("close", () => {
  if (route.photo !== undefined) location.hash = route.group.href;
});
viewer.addEventListener("click", (event) => {
  if (event.target === viewer || event.target.id === "viewer-stage") viewer.close();
});

history.scrollRestoration = "manual";
filter.addEventListener("input", showPeople);
addEventListener("hashchange", follow);
showPeople();
showLists();
follow();
