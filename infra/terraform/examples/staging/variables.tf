variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "image_tag" {
  description = "Tag of the image: the git commit that `make push` pushed."
  type        = string
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets of the machines, in several zones."
  type        = list(string)
}

variable "mongo_uris" {
  description = "The MongoDB URIs; set TF_VAR_mongo_uris. Kept in Secrets Manager only."
  type        = object({ gallery_images = string, huemn = string })
  ephemeral   = true
  sensitive   = true
}

variable "alarm_emails" {
  description = "Who is mailed when an alarm goes off."
  type        = list(string)
  default     = []
}

variable "runbook_base_url" {
  description = "Where docs/runbooks.md can be read."
  type        = string
}
