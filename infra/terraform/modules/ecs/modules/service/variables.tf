variable "name" {
  description = "Family of the task definition, and beginning of other names."
  type        = string
}

variable "service_type" {
  description = "detection or grouping; also the ECS service's name."
  type        = string

  validation {
    condition     = contains(["detection", "grouping"], var.service_type)
    error_message = "service_type must be detection or grouping."
  }
}

variable "cluster_name" {
  description = "The cluster."
  type        = string
}

variable "cluster_arn" {
  description = "The cluster's ARN."
  type        = string
}

variable "capacity_provider" {
  description = "Capacity provider that tasks run on."
  type        = string
}

variable "image" {
  description = "Image with its tag or digest."
  type        = string

  validation {
    condition     = can(regex("(@sha256:|:)[^/:]+$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image must name a tag or digest, and not latest: nobody could tell what runs."
  }
}

variable "task" {
  description = <<-TEXT
    What a task takes. cpu: 1024 to a vCPU. memory_mib: most it may use, below the machine's memory less some 6 % that
    system and agent take. gpus: 0 or 1 (a worker uses one). shared_memory_mib: /dev/shm. tmpfs_mib: /tmp.
  TEXT
  type        = object({ cpu = number, memory_mib = number, gpus = number, shared_memory_mib = number, tmpfs_mib = number })

  validation {
    condition     = contains([0, 1], var.task.gpus)
    error_message = "task.gpus must be 0 or 1: one worker uses one GPU; more GPUs want more tasks."
  }

  validation {
    condition     = var.task.cpu >= 128 && var.task.memory_mib >= 1024
    error_message = "task.cpu must be at least 128, and task.memory_mib at least 1024: the models alone take half a GB."
  }

  # Both lie in memory and count against the container's limit.
  validation {
    condition     = var.task.shared_memory_mib >= 64 && var.task.tmpfs_mib >= 16 && var.task.shared_memory_mib + var.task.tmpfs_mib < var.task.memory_mib
    error_message = "task.shared_memory_mib (at least 64) and task.tmpfs_mib (at least 16) must fit into memory_mib together."
  }
}

variable "environment" {
  description = "Settings (docs/configuration.md). SERVICE_TYPE, WORKER_MODE and TRACES_ENDPOINT are set here."
  type        = map(string)
  default     = {}

  validation {
    condition     = !anytrue([for name in keys(var.environment) : endswith(name, "_MONGO_URI")])
    error_message = "A MongoDB URI holds a password: give it by secrets, not by environment."
  }
}

variable "secrets" {
  description = "Settings whose values are secrets: their ARNs in Secrets Manager, by setting."
  type        = map(string)
  default     = {}
}

variable "execution_role_arn" {
  description = "Role that containers are started with."
  type        = string
}

variable "task_role_arn" {
  description = "What the worker may do."
  type        = string
}

variable "scaling" {
  description = <<-TEXT
    min_tasks to max_tasks, so that a message waits at most latency_goal_s where a task takes seconds_per_message for
    each (the time divided by how many it works on at once; measured: see docs/operations.md). drain_s: how much of that is
    for the work itself once tasks are there; null takes half, and leaves the rest for noticing it and starting machines.
  TEXT
  type = object({
    min_tasks           = number
    max_tasks           = number
    latency_goal_s      = number
    drain_s             = optional(number)
    seconds_per_message = number
  })

  validation {
    condition     = var.scaling.min_tasks >= 0 && var.scaling.max_tasks >= 1 && var.scaling.max_tasks >= var.scaling.min_tasks
    error_message = "scaling needs 0 <= min_tasks <= max_tasks, and max_tasks of at least 1."
  }

  validation {
    condition     = var.scaling.drain_s == null ? true : var.scaling.drain_s >= var.scaling.seconds_per_message && var.scaling.drain_s <= var.scaling.latency_goal_s
    error_message = "scaling.drain_s is a part of latency_goal_s, and no shorter than seconds_per_message."
  }

  validation {
    condition     = var.scaling.seconds_per_message > 0 && var.scaling.latency_goal_s >= var.scaling.seconds_per_message
    error_message = "scaling.latency_goal_s can't be below seconds_per_message: no number of tasks reaches that."
  }
}

variable "traffic_share" {
  description = "Percent of new work that is left to AWS Batch."
  type        = number
  default     = 0

  validation {
    condition     = var.traffic_share >= 0 && var.traffic_share <= 100
    error_message = "traffic_share must be between 0 and 100 percent."
  }
}

variable "queue_name" {
  description = "Queue whose backlog decides."
  type        = string
}

variable "wake_queue_names" {
  description = "Further queues whose messages start the first task. They do not add more tasks."
  type        = list(string)
  default     = []
}

variable "one_task_an_instance" {
  description = "Whether each task of this service has a machine of its own, whatever would fit beside it."
  type        = bool
  default     = false
}

variable "minimum_healthy_percent" {
  description = "Share of tasks that a deployment or a draining leaves; null chooses 50 from two tasks on, else 0 (see main.tf)."
  type        = number
  default     = null

  validation {
    condition     = var.minimum_healthy_percent == null ? true : var.minimum_healthy_percent >= 0 && var.minimum_healthy_percent < 100
    error_message = "minimum_healthy_percent must be at least 0 and below 100: at 100, SIGTERM comes too late on Spot."
  }
}

variable "collector_image" {
  description = "Image of an OpenTelemetry collector to run beside the worker; null for none."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "KMS key of yours for the logs; null encrypts with CloudWatch's own."
  type        = string
  default     = null
}
