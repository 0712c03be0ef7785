variable "name" {
  description = "Beginning of the secrets' names."
  type        = string
}

variable "arns" {
  description = "ARNs of secrets that exist and hold nothing but a MongoDB URI; null creates both from uris."
  type        = object({ gallery_images = string, huemn = string })
  default     = null
}

variable "uris" {
  description = "The MongoDB URIs, where the secrets are created here. Never stored by Terraform."
  type        = object({ gallery_images = string, huemn = string })
  default     = null
  ephemeral   = true
  sensitive   = true

  validation {
    condition     = var.arns != null || var.uris != null
    error_message = "The MongoDB URIs are missing: give the ARNs of their secrets, or the URIs."
  }

  validation {
    condition     = var.uris == null ? true : alltrue([for uri in values(var.uris) : can(regex("^mongodb(\\+srv)?://", uri))])
    error_message = "A MongoDB URI begins with mongodb:// or mongodb+srv://."
  }
}

variable "uris_version" {
  description = "Raise it to have changed uris written: Terraform can't see that they changed."
  type        = number
  default     = 1
}

variable "kms_key_arn" {
  description = "KMS key of yours for the created secrets; null encrypts with Secrets Manager's own."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether destroying deletes the secrets at once instead of after 7 days."
  type        = bool
  default     = false
}
