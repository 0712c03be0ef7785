variable "name" {
  description = "Beginning of the roles' names."
  type        = string

  validation {
    condition     = length(var.name) <= 40
    error_message = "name must have at most 40 characters: IAM allows 64 for a role."
  }
}

variable "queues" {
  description = "Both services' queues, as the module queues gives them."
  type        = object({ detection = object({ arn = string, dead = object({ arn = string }) }), grouping = object({ arn = string, dead = object({ arn = string }) }) })
}

variable "photo_bucket_names" {
  description = "Buckets that photos are read from."
  type        = list(string)

  validation {
    condition     = length(var.photo_bucket_names) > 0 && !anytrue([for name in var.photo_bucket_names : strcontains(name, "*")])
    error_message = "photo_bucket_names must name each bucket; * is refused."
  }
}

variable "photo_prefixes" {
  description = "Beginnings of the keys that are read, such as galleries/; none for all of the photo buckets."
  type        = list(string)
  default     = []
}

variable "results_bucket_arn" {
  description = "Bucket that crops, previews, groups.json and the people page are written to."
  type        = string
}

variable "results_prefix" {
  description = "Beginning of all results' keys."
  type        = string

  validation {
    condition     = endswith(var.results_prefix, "/") && !strcontains(var.results_prefix, "*")
    error_message = "results_prefix must end with / and hold no *."
  }
}

variable "former_galleries" {
  description = "Whether results of before results_prefix, whose keys begin with the gallery, may be read, written and removed as well."
  type        = bool
}

variable "models_bucket_arn" {
  description = "Bucket of the packs' weights."
  type        = string
}

variable "model_prefix" {
  description = "Beginning of the weights' keys; null where weights come with the image."
  type        = string
  default     = null

  validation {
    condition     = var.model_prefix == null ? true : endswith(var.model_prefix, "/") && !strcontains(var.model_prefix, "*")
    error_message = "model_prefix must end with / and hold no *."
  }
}

variable "secret_arns" {
  description = "The secrets that containers start with, by service."
  type        = map(list(string))
}

variable "repository_arns" {
  description = "ECR repositories that images are pulled from."
  type        = list(string)
}

variable "log_group_arns" {
  description = "Log groups of the containers, without :*."
  type        = list(string)
}

variable "worker_log_group_arn" {
  description = "Log group that the worker writes to by itself (LOG_GROUP); null for none."
  type        = string
  default     = null
}

variable "ecs_cluster_arn" {
  description = "The ECS cluster; null where there is none."
  type        = string
  default     = null
}

variable "batch_enabled" {
  description = "Whether Batch's machines need a role."
  type        = bool
  default     = false
}

variable "traces" {
  description = "Whether a collector beside the worker sends traces to X-Ray."
  type        = bool
  default     = false
}

variable "kms_key_arns" {
  description = "KMS keys of yours that queues, buckets and secrets are encrypted with."
  type        = list(string)
  default     = []
}

variable "events_arn" {
  description = "Topic of SNS or bus of EventBridge that both services tell of events; null for none."
  type        = string
  default     = null
}

variable "find" {
  description = "The queue of guests' requests, the buckets of their selfies, and the queues that answers may go to; null for none."
  type        = object({ queue_arn = string, dead_queue_arn = string, selfie_buckets = list(string), reply_queue_arns = list(string) })
  default     = null
}
