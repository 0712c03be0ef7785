variable "buckets" {
  description = "The buckets `photos`, `results` and `models`: name, and whether it is created here or exists."
  type        = map(object({ name = string, create = bool }))

  validation {
    condition     = toset(keys(var.buckets)) == toset(["photos", "results", "models"])
    error_message = "buckets must have the keys photos, results and models."
  }

  validation {
    condition     = alltrue([for bucket in values(var.buckets) : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", bucket.name))])
    error_message = "A bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens."
  }
}

variable "kms_key_arn" {
  description = "KMS key of yours for the created buckets; null encrypts with S3's own."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether destroying may delete buckets that hold objects."
  type        = bool
  default     = false
}

variable "former_versions_days" {
  description = "Days that overwritten and deleted objects are kept."
  type        = number
  default     = 30

  validation {
    condition     = var.former_versions_days >= 1
    error_message = "former_versions_days must be at least 1."
  }
}

variable "find_result_days" {
  description = "Days after which answers to guests go (FIND_RESULT_DAYS). They have the tag kind=find."
  type        = number
  default     = 7

  validation {
    condition     = var.find_result_days >= 1
    error_message = "find_result_days must be at least 1."
  }
}

variable "photos_expire_days" {
  description = "Days after which photos of a created photo bucket are deleted; null keeps them."
  type        = number
  default     = null

  validation {
    condition     = var.photos_expire_days == null ? true : var.photos_expire_days >= 1
    error_message = "photos_expire_days must be at least 1, or null."
  }
}

variable "results_prefix" {
  description = "Beginning of all results' keys, which are never announced as photos."
  type        = string
}

variable "photo_notifications" {
  description = <<-TEXT
    Queue that hears of photos, and the key prefixes it hears of (none: all); null for no notifications. rule_name and
    dead_queue_arn are used where the photo bucket holds the results as well.
  TEXT
  type        = object({ queue_arn = string, prefixes = list(string), rule_name = string, dead_queue_arn = string })
  default     = null
}

variable "cdn_enabled" {
  description = "Whether cdn_distribution_arn is set, which is known only once the distribution is there."
  type        = bool
  default     = false
}

variable "cdn_distribution_arn" {
  description = "CloudFront distribution that may read people's files and pictures of a created results bucket."
  type        = string
  default     = null
}
