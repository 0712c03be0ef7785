variable "name" {
  description = "Prefix of every name, such as face-worker-production."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,39}$", var.name))
    error_message = "name must be 2 to 40 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "subnet_ids" {
  description = "Subnets of the instances. More availability zones are more Spot pools to draw from."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 1
    error_message = "subnet_ids must name at least one subnet."
  }
}

variable "security_group_ids" {
  description = "Security groups of the instances; they need a way out only."
  type        = list(string)

  validation {
    condition     = length(var.security_group_ids) >= 1
    error_message = "security_group_ids must name at least one security group."
  }
}

variable "instance_profile_arn" {
  description = "Instance profile of the container instances (AmazonEC2ContainerServiceforEC2Role or narrower)."
  type        = string
}

variable "service_role_arn" {
  description = "Role that Batch itself works with; null has it use its service-linked one, without which machines can't be updated in place."
  type        = string
  default     = null
}

variable "services" {
  description = <<-TEXT
    The services that run as jobs, by name (detection, grouping). Each has machines of its own, for detection may need
    GPUs where grouping needs memory.

    - image: image URI with its tag or digest.
    - vcpus, memory_mib, gpus: what a job reserves. memory_mib must leave some 6 % of the instance to its agent.
    - shared_memory_mib, tmpfs_mib: size of /dev/shm and of /tmp.
    - job_role_arn: what the worker may do. execution_role_arn: reads the secrets and pulls the image.
    - environment: settings (docs/configuration.md); SERVICE_TYPE, WORKER_MODE and WATCH_SPOT_NOTICE are set here.
    - secrets: name of a setting to the ARN of the secret (or ARN:key::) that holds it.
    - attempts: how often a job is begun at most; only a lost host is a reason to begin again.
    - drain_max_s: after which a job takes in no new message and ends, so that a machine comes free though a few
      messages keep coming; the submitter begins another where there is work for one. Null: as long as the queue has any.
    - attempt_seconds: after which an attempt is stopped; a backstop above what the last message of a job takes.
    - primary, secondary: machines, tried in this order. purchase is SPOT or EC2 (On-Demand). Instance types are
      best of several families and sizes: each is a Spot pool of its own in each zone.
    - root_volume_gib: disk of an instance: image, layers and gallery index.
    - image_type: kind of AMI (ECS_AL2023, ECS_AL2023_NVIDIA); image_id: an AMI of your own instead.
  TEXT
  type = map(object({
    image              = string
    vcpus              = number
    memory_mib         = number
    gpus               = optional(number, 0)
    shared_memory_mib  = optional(number, 2048)
    tmpfs_mib          = optional(number, 1024)
    job_role_arn       = string
    execution_role_arn = string
    environment        = optional(map(string), {})
    secrets            = optional(map(string), {})
    attempts           = optional(number, 5)
    drain_max_s        = optional(number, 1800)
    attempt_seconds    = optional(number, 14400)
    root_volume_gib    = optional(number, 60)
    image_type         = optional(string)
    image_id           = optional(string)
    primary = object({
      purchase       = optional(string, "SPOT")
      instance_types = list(string)
      max_vcpus      = number
    })
    secondary = optional(object({
      purchase       = optional(string, "EC2")
      instance_types = list(string)
      max_vcpus      = number
    }))
  }))

  validation {
    condition     = length(var.services) > 0 && alltrue([for name in keys(var.services) : contains(["detection", "grouping"], name)])
    error_message = "services must name detection, grouping or both, and nothing else."
  }

  validation {
    condition     = alltrue([for s in values(var.services) : s.vcpus >= 1 && s.memory_mib >= 512 && s.gpus >= 0 && floor(s.gpus) == s.gpus])
    error_message = "A service needs at least one vCPU and 512 MiB, and a whole number of GPUs."
  }

  validation {
    condition = alltrue(flatten([
      for s in values(var.services) : [
        for machines in concat([s.primary], s.secondary == null ? [] : [s.secondary]) :
        contains(["SPOT", "EC2"], machines.purchase) && length(machines.instance_types) > 0 && machines.max_vcpus >= s.vcpus
      ]
    ]))
    error_message = "Machines need purchase SPOT or EC2, at least one instance type, and max_vcpus for at least one job."
  }

  validation {
    condition     = alltrue([for s in values(var.services) : s.primary.purchase != "SPOT" || length(s.primary.instance_types) >= 2])
    error_message = "Spot machines need at least two instance types: one type is one pool, and gone with it."
  }

  validation {
    condition = alltrue(flatten([
      for s in values(var.services) : [
        for type in concat(s.primary.instance_types, try(s.secondary.instance_types, [])) :
        can(regex("^[gp][0-9]", type)) == (s.gpus > 0)
      ]
    ]))
    error_message = "A service with GPUs needs GPU instance types (g..., p...) only, one without GPUs needs others only."
  }

  validation {
    condition     = alltrue([for s in values(var.services) : s.attempts >= 1 && s.attempts <= 10 && s.attempt_seconds >= 60])
    error_message = "attempts must be 1 to 10 and attempt_seconds at least 60; both are limits of AWS Batch."
  }

  validation {
    condition     = alltrue([for s in values(var.services) : s.tmpfs_mib + s.shared_memory_mib < s.memory_mib])
    error_message = "tmpfs_mib and shared_memory_mib count against memory_mib and must together be smaller."
  }

  validation {
    condition = alltrue(flatten([
      for s in values(var.services) : [
        for setting in concat(keys(s.environment), keys(s.secrets)) : !contains(["SERVICE_TYPE", "WORKER_MODE", "WATCH_SPOT_NOTICE"], setting)
      ]
    ]))
    error_message = "SERVICE_TYPE, WORKER_MODE and WATCH_SPOT_NOTICE are set by this module."
  }
}

variable "update_timeout_minutes" {
  description = "Minutes that running jobs may go on when machines are replaced by an update of their settings."
  type        = number
  default     = 60

  validation {
    condition     = var.update_timeout_minutes >= 1 && var.update_timeout_minutes <= 360
    error_message = "update_timeout_minutes must be 1 to 360, the limits of AWS Batch."
  }
}

variable "log_retention_days" {
  description = "Days that the jobs' logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of the periods that CloudWatch Logs knows, such as 30, 90 or 365."
  }
}

variable "kms_key_arn" {
  description = "KMS key of the logs; null leaves them to the key of CloudWatch Logs."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of the instances and jobs, beside the provider's default tags, which don't reach either."
  type        = map(string)
  default     = {}
}
