output "repository" {
  description = "Name, url and arn of the image repository."
  value = {
    name = aws_ecr_repository.image.name
    url  = aws_ecr_repository.image.repository_url
    arn  = aws_ecr_repository.image.arn
  }
}
