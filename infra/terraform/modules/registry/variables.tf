variable "name" {
  description = "Name of the repository."
  type        = string
}

variable "kms_key_arn" {
  description = "KMS key of yours for the images; null encrypts with ECR's own. It can't be changed later."
  type        = string
  default     = null
}

variable "keep_images" {
  description = "Newest images that are kept. One that still runs must be among them, or no new task can start from it."
  type        = number
  default     = 30

  validation {
    condition     = var.keep_images >= 5 && var.keep_images <= 1000
    error_message = "keep_images must be between 5 and 1000."
  }
}

variable "force_destroy" {
  description = "Whether destroying may delete a repository that holds images."
  type        = bool
  default     = false
}
