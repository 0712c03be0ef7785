variable "name" {
  description = "Name of the group, its template and its capacity provider."
  type        = string

  validation {
    condition     = !can(regex("^(aws|ecs|fargate)", lower(var.name)))
    error_message = "ECS refuses capacity providers whose names begin with aws, ecs or fargate."
  }
}

variable "cluster_name" {
  description = "The cluster that the machines join."
  type        = string
}

variable "instance_types" {
  description = "Instance types, most wanted first (the order counts for On-Demand only). More types are more Spot pools."
  type        = list(string)

  validation {
    condition     = length(var.instance_types) > 0 && length(var.instance_types) <= 40
    error_message = "instance_types must name 1 to 40 types."
  }

  # A task reserves a GPU or none, so a pool holds one kind of machine.
  validation {
    condition     = alltrue([for type in var.instance_types : can(regex("^(g|p)[0-9]", type)) == var.gpu])
    error_message = "A pool with gpu = true takes GPU instance types (g4dn, g5, g6, p3 …) and no others, one without takes none."
  }
}

variable "gpu" {
  description = "Whether the machines have GPUs; picks the AMI that brings NVIDIA's driver."
  type        = bool
}

variable "ami_id" {
  description = "An ECS-optimised AMI of your own choice; null takes AWS's recommended one at the time of the apply."
  type        = string
  default     = null
}

variable "min_instances" {
  description = "Machines that stay without work."
  type        = number

  validation {
    condition     = var.min_instances >= 0
    error_message = "min_instances can't be negative."
  }
}

variable "max_instances" {
  description = "Most machines at once; what bounds the cost."
  type        = number

  validation {
    condition     = var.max_instances >= 1 && var.max_instances >= var.min_instances
    error_message = "max_instances must be at least 1 and at least min_instances."
  }
}

variable "on_demand" {
  description = "On-Demand machines: the first `base`, and a percentage of those above; the rest is Spot."
  type        = object({ base = number, percent_above_base = number })

  validation {
    condition     = var.on_demand.base >= 0 && var.on_demand.percent_above_base >= 0 && var.on_demand.percent_above_base <= 100
    error_message = "on_demand.base can't be negative, and percent_above_base must be between 0 and 100."
  }
}

variable "root_volume_gib" {
  description = "GiB of a machine's disk: system, image (several GB with CUDA) and the galleries' index."
  type        = number

  validation {
    condition     = var.root_volume_gib >= 30
    error_message = "root_volume_gib must be at least 30: the AMI alone takes that."
  }
}

variable "public_ip" {
  description = "Whether machines get public addresses: needed in public subnets without NAT gateway."
  type        = bool
}

variable "subnet_ids" {
  description = "Subnets of the machines."
  type        = list(string)
}

variable "security_group_id" {
  description = "Security group of the machines."
  type        = string
}

variable "instance_profile_arn" {
  description = "Instance profile of the machines."
  type        = string
}
