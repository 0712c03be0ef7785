variable "name" {
  description = "Name of the cluster, and beginning of what is in it."
  type        = string
}

variable "container_insights" {
  description = "`enabled`, or `enhanced` for metrics of each task and container at more cost. Scaling needs either."
  type        = string
  default     = "enabled"

  validation {
    condition     = contains(["enabled", "enhanced"], var.container_insights)
    error_message = "container_insights must be enabled or enhanced: without it the services can't scale."
  }
}

variable "pools" {
  description = "Kinds of machines, by a name of your choice; see the root module's variable of the same name."
  type = map(object({
    instance_types  = list(string)
    gpu             = bool
    ami_id          = optional(string)
    min_instances   = number
    max_instances   = number
    on_demand       = object({ base = number, percent_above_base = number })
    root_volume_gib = number
    public_ip       = bool
  }))
}

variable "services" {
  description = "The services, detection and grouping: their pool, task, scaling and placement; see modules/service."
  type = map(object({
    pool = string
    task = object({
      cpu               = number
      memory_mib        = number
      gpus              = number
      shared_memory_mib = number
      tmpfs_mib         = number
    })
    scaling = object({
      min_tasks           = number
      max_tasks           = number
      latency_goal_s      = number
      drain_s             = optional(number)
      seconds_per_message = number
    })
    one_task_an_instance    = bool
    minimum_healthy_percent = optional(number)
  }))

  validation {
    condition     = alltrue([for name in keys(var.services) : contains(["detection", "grouping"], name)])
    error_message = "services may be detection and grouping."
  }

  validation {
    condition     = alltrue([for service in values(var.services) : contains(keys(var.pools), service.pool)])
    error_message = "Each service's pool must be one of pools."
  }

  # A GPU task would wait for ever on machines without one, and ECS only says so in the service's events.
  validation {
    condition     = alltrue([for service in values(var.services) : service.task.gpus == 0 || try(var.pools[service.pool].gpu, false)])
    error_message = "A task with gpus needs a pool with gpu = true."
  }
}

variable "image" {
  description = "Image with its tag or digest."
  type        = string
}

variable "environment" {
  description = "Settings of each service (docs/configuration.md), by service."
  type        = map(map(string))
}

variable "secrets" {
  description = "Settings whose values are secrets: their ARNs in Secrets Manager, by service and setting."
  type        = map(map(string))
}

variable "queue_names" {
  description = "Name of the queue that each service reads, by service."
  type        = map(string)
}

variable "wake_queue_names" {
  description = "Service => further queues whose messages start its first task."
  type        = map(list(string))
  default     = {}
}

variable "traffic_share" {
  description = "Percent of new work that is left to AWS Batch."
  type        = number
}

variable "subnet_ids" {
  description = "Subnets of the machines."
  type        = list(string)
}

variable "security_group_id" {
  description = "Security group of the machines; tasks share it, for they use their network."
  type        = string
}

variable "instance_profile_arn" {
  description = "Instance profile of the machines."
  type        = string
}

variable "execution_role_arns" {
  description = "Role that containers are started with, by service."
  type        = map(string)
}

variable "task_role_arns" {
  description = "Role of the worker, by service."
  type        = map(string)
}

variable "collector_image" {
  description = "Image of an OpenTelemetry collector (such as AWS's ADOT) to run beside the worker; null for none."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
}

variable "kms_key_arn" {
  description = "KMS key of yours for the logs; null encrypts with CloudWatch's own."
  type        = string
  default     = null
}
