/* Preloaded into a process, this appends a line to the file that OUTGOING_FILE names for each host name that is looked
   up and each address that is connected or sent to: process id, what, name or address, port. Look-ups of names beyond
   this machine fail, so that a test sends nothing itself; all else is done as without it. Sockets of this machine (AF_UNIX) leave nothing and are left out. A program that makes its own system
   calls, such as one in Go, is not seen. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void write_line(const char *what, const char *name, int port) {
    const char *path = getenv("OUTGOING_FILE");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file < 0) return;
    char line[512];
    int length = snprintf(line, sizeof line, "%d %s %s %d\n", (int)getpid(), what, name ? name : "-", port);
    if (length >= (int)sizeof line) length = sizeof line - 1;
    /* One write, so that lines of two processes don't mix. */
    if (write(file, line, (size_t)length) < 0) abort();
    close(file);
}

static void write_address(const char *what, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN];
    if (address && address->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)address;
        write_line(what, inet_ntop(AF_INET, &four->sin_addr, text, sizeof text), ntohs(four->sin_port));
    } else if (address && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
        write_line(what, inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text), ntohs(six->sin6_port));
    }
}

/* Whether a name is neither an address nor one of this machine: it has a dot, and a letter besides. */
static int is_outside(const char *name) {
    return strchr(name, '.') && !strchr(name, ':') && name[strspn(name, "0123456789.")] != '\0';
}

/* The function of this name that would run without this library. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints,
                struct addrinfo **restrict result) {
    /* Without a name, it asks for an address to listen on. */
    if (name) write_line("lookup", name, 0);
    if (name && is_outside(name)) return EAI_FAIL;
    return REAL(getaddrinfo)(name, service, hints, result);
}

struct hostent *gethostbyname(const char *name) {
    write_line("lookup", name, 0);
    return REAL(gethostbyname)(name);
}

int gethostbyname_r(const char *restrict name, struct hostent *restrict entry, char *restrict buffer, size_t size,
                    struct hostent **restrict result, int *restrict problem) {
    write_line("lookup", name, 0);
    return REAL(gethostbyname_r)(name, entry, buffer, size, result, problem);
}

int gethostbyaddr_r(const void *restrict address, socklen_t length, int type, struct hostent *restrict entry,
                    char *restrict buffer, size_t size, struct hostent **restrict result, int *restrict problem) {
    char text[INET6_ADDRSTRLEN];
    write_line("lookup", inet_ntop(type, address, text, sizeof text), 0);
    return REAL(gethostbyaddr_r)(address, length, type, entry, buffer, size, result, problem);
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    write_address("connect", address);
    return REAL(connect)(socket, address, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    write_address("send", address);
    return REAL(sendto)(socket, data, size, flags, address, length);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    write_address("send", message->msg_name);
    return REAL(sendmsg)(socket, message, flags);
}
