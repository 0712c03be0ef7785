variable "pools" {
  description = <<-TEXT
    Kinds of machines for ECS, by a name of your choice. gpu: whether they have GPUs. ami_id: null takes AWS's
    recommended one. on_demand: the first `base` machines and a percentage of those above; the rest is Spot.
  TEXT
  type = map(object({
    instance_types  = list(string)
    gpu             = optional(bool, false)
    ami_id          = optional(string)
    min_instances   = optional(number, 0)
    max_instances   = number
    on_demand       = optional(object({ base = optional(number, 0), percent_above_base = optional(number, 0) }), {})
    root_volume_gib = optional(number, 100)
  }))
  default = {}

  validation {
    condition     = !var.ecs_enabled || alltrue([for service in [var.detection, var.grouping] : contains(keys(var.pools), service.pool)])
    error_message = "pools must hold the pool of each service while ecs_enabled is true."
  }

  # Such a task would wait for ever, and only the service's events would say why.
  validation {
    condition     = !var.ecs_enabled || alltrue([for service in [var.detection, var.grouping] : service.task.gpus == 0 || try(var.pools[service.pool].gpu, true)])
    error_message = "A task with gpus needs a pool with gpu = true."
  }
}

variable "detection" {
  description = "The detection service; fields as in grouping."
  type = object({
    pool                    = optional(string, "default")
    environment             = optional(map(string), {})
    one_task_an_instance    = optional(bool, false)
    minimum_healthy_percent = optional(number)
    task = object({
      cpu               = number
      memory_mib        = number
      gpus              = optional(number, 0)
      shared_memory_mib = optional(number, 2048)
      tmpfs_mib         = optional(number, 1024)
    })
    scaling = object({
      min_tasks           = optional(number, 0)
      max_tasks           = number
      latency_goal_s      = number
      drain_s             = optional(number)
      seconds_per_message = number
    })
    batch = optional(object({
      messages_per_job = number
      max_jobs         = number
      drain_max_s      = optional(number, 1800)
      attempt_seconds  = optional(number, 14400)
      primary          = object({ purchase = optional(string, "SPOT"), instance_types = list(string), max_vcpus = number })
      secondary        = optional(object({ purchase = optional(string, "EC2"), instance_types = list(string), max_vcpus = number }))
    }))
  })

  validation {
    condition     = !var.batch_enabled || (var.detection.batch != null && var.grouping.batch != null)
    error_message = "detection.batch and grouping.batch are needed while batch_enabled is true."
  }
}

variable "grouping" {
  description = <<-TEXT
    The grouping service. pool: its machines on ECS. environment: further settings (docs/configuration.md).
    one_task_an_instance: a machine for each task, whatever would fit beside it. minimum_healthy_percent: see
    modules/ecs/modules/service/main.tf. task: cpu (1024 to a vCPU), memory_mib, gpus, shared_memory_mib (/dev/shm) and
    tmpfs_mib (/tmp). scaling: tasks on ECS such that a message waits at most latency_goal_s where one task takes
    seconds_per_message for each; drain_s of that is for the work itself, the rest for noticing it and starting machines
    (null: half). batch: see modules/batch and modules/submitter.
  TEXT
  type = object({
    pool                    = optional(string, "default")
    environment             = optional(map(string), {})
    one_task_an_instance    = optional(bool, false)
    minimum_healthy_percent = optional(number)
    task = object({
      cpu               = number
      memory_mib        = number
      gpus              = optional(number, 0)
      shared_memory_mib = optional(number, 2048)
      tmpfs_mib         = optional(number, 1024)
    })
    scaling = object({
      min_tasks           = optional(number, 0)
      max_tasks           = number
      latency_goal_s      = number
      drain_s             = optional(number)
      seconds_per_message = number
    })
    batch = optional(object({
      messages_per_job = number
      max_jobs         = number
      drain_max_s      = optional(number, 1800)
      attempt_seconds  = optional(number, 14400)
      primary          = object({ purchase = optional(string, "SPOT"), instance_types = list(string), max_vcpus = number })
      secondary        = optional(object({ purchase = optional(string, "EC2"), instance_types = list(string), max_vcpus = number }))
    }))
  })
}

variable "worker_environment" {
  description = "Settings of both services (docs/configuration.md), beside those that follow from this module."
  type        = map(string)
  default     = {}
}

variable "container_insights" {
  description = "`enabled`, or `enhanced` for metrics of each task at more cost."
  type        = string
  default     = "enabled"
}

variable "collector_image" {
  description = "Image of an OpenTelemetry collector, such as AWS's ADOT, that takes traces to X-Ray; null sends none."
  type        = string
  default     = null
}

variable "worker_log_group" {
  description = "Log group that workers write to by themselves as well (LOG_GROUP); null: containers' logs only."
  type        = string
  default     = null
}

variable "metrics_namespace" {
  description = "CloudWatch namespace of the workers' own metrics (METRICS_NAMESPACE)."
  type        = string
  default     = "FaceWorker"
}

variable "batch_service_role_arn" {
  description = "Role that AWS Batch works with; null has it use, and in a new account create, its service-linked role."
  type        = string
  default     = null
}
