variable "name" {
  description = "Name of this installation, and beginning of every name in it, such as face-worker-staging."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,31}$", var.name)) && !endswith(var.name, "-")
    error_message = "name must be 2 to 32 lower-case letters, digits and hyphens, begin with a letter, and not end with a hyphen."
  }

  validation {
    condition     = !can(regex("^(aws|ecs|fargate)", var.name))
    error_message = "name must not begin with aws, ecs or fargate: ECS keeps such names to itself."
  }
}

variable "environment" {
  description = "Which installation metrics belong to (ENVIRONMENT), such as staging or production."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,31}$", var.environment))
    error_message = "environment must be 2 to 32 lower-case letters, digits and hyphens."
  }
}

variable "image_tag" {
  description = "Tag of the image in the created registry; `make push` tags with the git commit."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag)) && var.image_tag != "latest"
    error_message = "image_tag must be a tag, and not latest: nobody could tell what runs."
  }
}

variable "ecs_enabled" {
  description = "Whether the services run on ECS."
  type        = bool
  default     = true

  validation {
    condition     = var.ecs_enabled || var.batch_enabled
    error_message = "Nothing would read the queues: ecs_enabled or batch_enabled must be true."
  }
}

variable "batch_enabled" {
  description = "Whether the services run as AWS Batch jobs, which a submitter starts as messages wait."
  type        = bool
  default     = false
}

variable "traffic_share" {
  description = "Percent of new work that Batch gets where both run; the rest is for ECS. See docs/runbooks.md for moving it."
  type        = number
  default     = 0

  validation {
    condition     = var.traffic_share >= 0 && var.traffic_share <= 100 && floor(var.traffic_share) == var.traffic_share
    error_message = "traffic_share must be a whole number from 0 to 100 (percent)."
  }

  validation {
    condition     = var.traffic_share == 0 || (var.ecs_enabled && var.batch_enabled)
    error_message = "traffic_share divides work between ECS and Batch: leave it at 0 where only one of them is enabled."
  }
}

variable "kms_key_arn" {
  description = "KMS key of yours for queues, buckets, images, secrets and logs; null uses each service's own. Its policy must let CloudWatch Logs, and S3 where it announces photos, use it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, not of an alias."
  }
}

variable "force_destroy" {
  description = "Whether a destroy may delete buckets with objects, a registry with images, and secrets at once."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of the periods that CloudWatch Logs knows, such as 30, 90 or 365."
  }
}
