variable "name" {
  description = "Beginning of the names of what is created."
  type        = string
}

variable "vpc_id" {
  description = "The VPC that the workers run in."
  type        = string

  validation {
    condition     = startswith(var.vpc_id, "vpc-")
    error_message = "vpc_id must be the id of a VPC, such as vpc-0a1b2c3d."
  }
}

variable "subnet_ids" {
  description = "Subnets of the workers: in several zones, for Spot capacity runs out zone by zone."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) > 0 && alltrue([for id in var.subnet_ids : startswith(id, "subnet-")])
    error_message = "subnet_ids must name at least one subnet, such as subnet-0a1b2c3d."
  }
}

variable "mongo" {
  description = "Where MongoDB is: ports and networks. Atlas uses 27015 to 27017."
  type = object({
    from_port = optional(number, 27015)
    to_port   = optional(number, 27017)
    cidrs     = optional(list(string), ["0.0.0.0/0"])
  })
  default = {}

  validation {
    condition     = var.mongo.from_port >= 1 && var.mongo.from_port <= var.mongo.to_port && var.mongo.to_port <= 65535
    error_message = "mongo's ports must satisfy 1 <= from_port <= to_port <= 65535."
  }

  validation {
    condition     = alltrue([for cidr in var.mongo.cidrs : can(cidrhost(cidr, 0))])
    error_message = "mongo.cidrs must be networks such as 10.0.0.0/16."
  }
}

variable "s3_gateway_endpoint" {
  description = "Whether to add the gateway endpoint of S3 to route_table_ids."
  type        = bool
  default     = false

  validation {
    condition     = !var.s3_gateway_endpoint || length(var.route_table_ids) > 0
    error_message = "s3_gateway_endpoint needs route_table_ids, those of the subnets."
  }
}

variable "route_table_ids" {
  description = "Route tables of the subnets, for the gateway endpoint."
  type        = list(string)
  default     = []
}

variable "interface_endpoints" {
  description = "Services to add interface endpoints for. Without any way to the internet the workers need all but xray."
  type        = set(string)
  default     = []

  validation {
    condition = length(setsubtract(var.interface_endpoints, [
      "sqs", "ecr.api", "ecr.dkr", "logs", "secretsmanager", "ecs", "ecs-agent", "ecs-telemetry", "monitoring", "xray",
      "kms", "batch",
    ])) == 0
    error_message = "interface_endpoints may hold sqs, ecr.api, ecr.dkr, logs, secretsmanager, ecs, ecs-agent, ecs-telemetry, monitoring, xray, kms and batch."
  }
}
