variable "queues" {
  description = "Seconds a message is hidden once received, receives before it is a dead letter, seconds it is kept."
  type = object({
    visibility_timeout_s = optional(number, 120)
    max_receive_count    = optional(number, 6)
    retention_s          = optional(number, 345600)
  })
  default = {}
}

variable "existing_buckets" {
  description = "Names of buckets that exist, by what they are for; those left out are created."
  type        = object({ photos = optional(string), results = optional(string), models = optional(string) })
  default     = {}
}

variable "further_photo_buckets" {
  description = "Further buckets that a message may name (ALLOWED_BUCKETS)."
  type        = list(string)
  default     = []
}

variable "photo_prefixes" {
  description = "Beginnings of the photos' keys, such as galleries/: all that workers may read, and what is announced. None: all keys."
  type        = list(string)
  default     = []

  validation {
    condition     = !anytrue([for prefix in var.photo_prefixes : prefix == "" || strcontains(prefix, "*")])
    error_message = "photo_prefixes must not be empty nor hold *: it is added."
  }

  validation {
    condition     = var.existing_buckets.photos == null || var.existing_buckets.photos != var.existing_buckets.results || !anytrue([for prefix in var.photo_prefixes : startswith(var.results_prefix, prefix) || startswith(prefix, var.results_prefix)])
    error_message = "photo_prefixes must leave results_prefix out where one bucket holds photos and results: results would be announced as photos."
  }
}

variable "results_prefix" {
  description = "Beginning of the keys of all results (RESULTS_PREFIX). It is reserved: no photo's key may begin with it."
  type        = string
  default     = "face-worker/"

  # As RESULTS_PREFIX in app/config.py.
  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]{0,60}/$", var.results_prefix))
    error_message = "results_prefix must be one folder, such as face-worker/: 1 to 61 letters, digits, dots, hyphens and underscores, and a slash."
  }
}

variable "former_galleries" {
  description = <<-TEXT
    Whether the stack was there before results_prefix. Results of its galleries may then lie outside of it: they can be
    read and removed, and workers of the former version can write them until the next deploy. A new stack sets it to
    false, above all where one bucket holds photos and results.
  TEXT
  type        = bool
  default     = true
}

variable "photo_notifications" {
  description = "Whether the photo bucket announces new, deleted and restored photos to the detection queue. Replaces notifications the bucket may have."
  type        = object({ enabled = bool })
  default     = { enabled = false }
}

variable "former_versions_days" {
  description = "Days that overwritten and deleted objects of created buckets are kept."
  type        = number
  default     = 30
}

variable "photos_expire_days" {
  description = "Days after which photos in a created photo bucket are deleted; null keeps them."
  type        = number
  default     = null
}

variable "model_prefix" {
  description = "Where packs lie in the model bucket, such as packs/ (MODEL_SOURCE); null where weights come with the image."
  type        = string
  default     = null
}

variable "mongo_secret_arns" {
  description = "Secrets that hold the MongoDB URIs, where they exist; null creates both from mongo_uris."
  type        = object({ gallery_images = string, huemn = string })
  default     = null
}

variable "mongo_uris" {
  description = "The MongoDB URIs, best by the environment variable TF_VAR_mongo_uris. They go to Secrets Manager, and into no plan or state."
  type        = object({ gallery_images = string, huemn = string })
  default     = null
  ephemeral   = true
  sensitive   = true
}

variable "mongo_uris_version" {
  description = "Raise it after changing mongo_uris, which Terraform can't compare."
  type        = number
  default     = 1
}

variable "network" {
  description = <<-TEXT
    The VPC and its subnets. public_ip: whether machines get public addresses, as in a VPC without NAT gateway. mongo:
    ports and networks of MongoDB. s3_gateway_endpoint with route_table_ids, and interface_endpoints (such as sqs,
    ecr.api, ecr.dkr, logs, secretsmanager): ways to AWS that need no internet.
  TEXT
  type = object({
    vpc_id     = string
    subnet_ids = list(string)
    public_ip  = optional(bool, false)
    mongo = optional(object({
      from_port = optional(number, 27015)
      to_port   = optional(number, 27017)
      cidrs     = optional(list(string), ["0.0.0.0/0"])
    }), {})
    s3_gateway_endpoint = optional(bool, false)
    route_table_ids     = optional(list(string), [])
    interface_endpoints = optional(set(string), [])
  })
}
