variable "name" {
  description = "Prefix of every name, such as face-worker-production."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,39}$", var.name))
    error_message = "name must be 2 to 40 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "service" {
  description = "Service whose jobs are submitted."
  type        = string

  validation {
    condition     = contains(["detection", "grouping"], var.service)
    error_message = "service must be detection or grouping."
  }
}

variable "zip_path" {
  description = "The function's package, written by `make submitter`."
  type        = string

  validation {
    condition     = fileexists(var.zip_path)
    error_message = "The submitter's package is missing: run `make submitter` first."
  }
}

variable "queue_url" {
  description = "SQS queue whose backlog decides."
  type        = string
}

variable "queue_arn" {
  description = "ARN of the same queue."
  type        = string
}

variable "job_queue_arn" {
  description = "Batch job queue that jobs are submitted to."
  type        = string
}

variable "job_definition_name" {
  description = "Name of the job definition; its latest revision is submitted, so that a deploy needs no change here."
  type        = string
}

variable "job_definition_arn_prefix" {
  description = "ARN of the job definition without a revision."
  type        = string
}

variable "messages_per_job" {
  description = "Messages that one job is meant to work through."
  type        = number

  validation {
    condition     = var.messages_per_job >= 1 && floor(var.messages_per_job) == var.messages_per_job
    error_message = "messages_per_job must be a whole number of at least 1."
  }
}

variable "max_jobs" {
  description = "Jobs that may be active at once, from SUBMITTED to RUNNING."
  type        = number

  validation {
    condition     = var.max_jobs >= 1 && var.max_jobs <= 10000 && floor(var.max_jobs) == var.max_jobs
    error_message = "max_jobs must be a whole number of 1 to 10000, the largest array job of AWS Batch."
  }
}

variable "traffic_share" {
  description = "Percent of new work that Batch gets; the rest is left to ECS."
  type        = number

  validation {
    condition     = var.traffic_share >= 0 && var.traffic_share <= 100 && floor(var.traffic_share) == var.traffic_share
    error_message = "traffic_share must be a whole number of 0 to 100."
  }
}

variable "schedule_expression" {
  description = "How often the backlog is looked at."
  type        = string
  default     = "rate(1 minute)"

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.schedule_expression))
    error_message = "schedule_expression must be rate(...) or cron(...)."
  }
}

variable "log_retention_days" {
  description = "Days that the function's logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of the periods that CloudWatch Logs knows, such as 30, 90 or 365."
  }
}

variable "kms_key_arn" {
  description = "KMS key of the function's settings, logs and schedule; null leaves each to its service's own key."
  type        = string
  default     = null
}
