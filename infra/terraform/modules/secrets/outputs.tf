output "arns" {
  description = "ARNs of both secrets: gallery_images and huemn."
  value = {
    gallery_images = var.arns != null ? var.arns.gallery_images : aws_secretsmanager_secret.mongo_uri["gallery-images"].arn
    huemn          = var.arns != null ? var.arns.huemn : aws_secretsmanager_secret.mongo_uri["huemn"].arn
  }
}
