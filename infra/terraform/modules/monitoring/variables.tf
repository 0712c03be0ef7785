variable "name" {
  description = "Prefix of every name, such as face-worker-production."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,39}$", var.name))
    error_message = "name must be 2 to 40 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "environment" {
  description = "Value of the dimension Environment: the workers' setting ENVIRONMENT."
  type        = string

  validation {
    condition     = length(var.environment) > 0
    error_message = "environment must not be empty."
  }
}

variable "metrics_namespace" {
  description = "Namespace of the workers' own metrics: their setting METRICS_NAMESPACE."
  type        = string
  default     = "FaceWorker"
}

variable "runbook_base_url" {
  description = "Address of docs/runbooks.md, without an anchor; each alarm's description ends in a link to its section."
  type        = string

  validation {
    condition     = can(regex("^https?://[^#]+$", var.runbook_base_url))
    error_message = "runbook_base_url must be an http or https address without #."
  }
}

variable "alarm_emails" {
  description = "Addresses that alarms are mailed to; each has to confirm its subscription once."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "alarm_emails must be mail addresses."
  }
}

variable "ecs_enabled" {
  description = "Whether the services run on ECS."
  type        = bool
}

variable "batch_enabled" {
  description = "Whether the services run on Batch."
  type        = bool
}

variable "ecs_cluster_name" {
  description = "ECS cluster; unused without ecs_enabled."
  type        = string
  default     = ""
}

variable "ecs_cluster_arn" {
  description = "ARN of the ECS cluster; unused without ecs_enabled."
  type        = string
  default     = ""
}

variable "services" {
  description = <<-TEXT
    The services, by name (detection, grouping):

    - queue_name, dead_letter_queue_name: its SQS queues.
    - gpu: whether it runs on GPUs, whose alarms it then gets.
    - latency_goal_s: seconds after which a new message should be done; the alarms of backlog and age build on it.
    - silent_minutes: minutes that may pass without a finished message while some wait, by default 20, and 60 for
      grouping. It must be more than a start from zero takes, and for grouping more than the largest gallery.
    - ecs_service_name: its ECS service; job_queue_arn: its Batch job queue; autoscaling_group_name: its instances on
      ECS, for the dashboard; submitter_function_name: its submitter. Each may be empty where it does not exist.
  TEXT
  type = map(object({
    queue_name              = string
    dead_letter_queue_name  = string
    gpu                     = optional(bool, false)
    latency_goal_s          = optional(number, 900)
    silent_minutes          = optional(number)
    ecs_service_name        = optional(string, "")
    autoscaling_group_name  = optional(string, "")
    job_queue_arn           = optional(string, "")
    submitter_function_name = optional(string, "")
  }))

  validation {
    condition     = length(var.services) > 0 && alltrue([for name in keys(var.services) : contains(["detection", "grouping"], name)])
    error_message = "services must name detection, grouping or both, and nothing else."
  }

  validation {
    condition     = alltrue([for s in values(var.services) : s.latency_goal_s >= 60])
    error_message = "latency_goal_s must be at least 60: CloudWatch knows a queue's age to the minute."
  }

  validation {
    condition     = alltrue([for m in [for s in values(var.services) : coalesce(s.silent_minutes, 20)] : m >= 10 && m <= 1440 && m % 5 == 0])
    error_message = "silent_minutes must be 10 to 1440 in steps of 5: from zero, the first photo takes some minutes."
  }
}

variable "failure_percent" {
  description = "Percent of messages put back or rejected at which the failure alarm goes off."
  type        = number
  default     = 5

  validation {
    condition     = var.failure_percent > 0 && var.failure_percent <= 100
    error_message = "failure_percent must be above 0 and at most 100."
  }
}

variable "gpu_temperature_c" {
  description = "Degrees Celsius of a GPU at which the alarm goes off; an NVIDIA T4 slows itself down somewhat above."
  type        = number
  default     = 85

  validation {
    condition     = var.gpu_temperature_c >= 50 && var.gpu_temperature_c <= 110
    error_message = "gpu_temperature_c must be 50 to 110."
  }
}

variable "memory_share" {
  description = "Share (0 to 1) of a container's memory at which the alarm goes off. Workers take in nothing new from 0.8 on."
  type        = number
  default     = 0.92

  validation {
    condition     = var.memory_share >= 0.5 && var.memory_share < 1
    error_message = "memory_share must be 0.5 or more and below 1."
  }
}

variable "spot_interruptions" {
  description = "Spot interruptions within 15 minutes at which the alarm goes off; fewer are the price of Spot."
  type        = number
  default     = 5

  validation {
    condition     = var.spot_interruptions >= 1
    error_message = "spot_interruptions must be at least 1."
  }
}

variable "log_group_names" {
  description = "Log groups of the workers and submitters that the saved queries read."
  type        = list(string)
  default     = []
}

variable "log_retention_days" {
  description = "Days that the events (interruptions, failed jobs and deployments) are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of the periods that CloudWatch Logs knows, such as 30, 90 or 365."
  }
}

variable "kms_key_arn" {
  description = "KMS key of the event log; null leaves it to the key of CloudWatch Logs. The topic has a key of its own."
  type        = string
  default     = null
}

variable "saved_queries" {
  description = "Whether the saved Logs Insights queries are created; emulators of AWS commonly can't."
  type        = bool
  default     = true
}
