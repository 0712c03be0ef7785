output "queues" {
  description = "Queues of both services."
  value       = module.face_worker.queues
}

output "buckets" {
  description = "Buckets for photos, results and models."
  value       = module.face_worker.buckets
}

output "repository_url" {
  description = "Where images are pushed to."
  value       = module.face_worker.repository_url
}
