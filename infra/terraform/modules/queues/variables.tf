variable "name" {
  description = "Beginning of every queue's name."
  type        = string
}

variable "visibility_timeout_s" {
  description = "Seconds a received message stays hidden. The worker renews this lease while it works."
  type        = number
  default     = 120

  validation {
    condition     = var.visibility_timeout_s >= 10 && var.visibility_timeout_s <= 43200
    error_message = "visibility_timeout_s must be between 10 and 43200 s (12 hours, what SQS allows)."
  }
}

variable "max_receive_count" {
  description = "Receives after which a message becomes a dead letter."
  type        = number
  default     = 6

  validation {
    condition     = var.max_receive_count >= 2 && var.max_receive_count <= 1000
    error_message = "max_receive_count must be between 2 and 1000: with 1, one Spot interruption makes a dead letter."
  }
}

variable "retention_s" {
  description = "Seconds an unread message is kept; dead letters are kept 14 days."
  type        = number
  default     = 345600

  validation {
    condition     = var.retention_s >= 3600 && var.retention_s < 1209600
    error_message = "retention_s must be at least an hour and below 1209600 s (14 days), as long as dead letters live."
  }
}

variable "kms_key_arn" {
  description = "KMS key of yours for the messages; null encrypts with SQS's own. Its policy must let S3, or EventBridge, use it where that sends."
  type        = string
  default     = null
}

variable "photo_rule_arn" {
  description = "EventBridge rule that announces photos to the detection queue; null for none."
  type        = string
  default     = null
}

variable "expire_rule_arn" {
  description = "EventBridge rule that sends the daily message to the grouping queue; null for none."
  type        = string
  default     = null
}

variable "photo_bucket" {
  description = "Bucket that announces its new photos to the detection queue, and its account; null for none."
  type        = object({ arn = string, account_id = string })
  default     = null
}

variable "find_enabled" {
  description = "Whether there is a queue of guests' requests, which detection reads beside its own."
  type        = bool
  default     = false
}
