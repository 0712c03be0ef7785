variable "runbook_base_url" {
  description = "Address of docs/runbooks.md where those who are on call can read it; alarms link to its sections."
  type        = string
}

variable "alarm_emails" {
  description = "Addresses that alarms are mailed to; each has to confirm its subscription once."
  type        = list(string)
  default     = []
}

variable "submitter_package" {
  description = "The submitters' zip file; null takes what `make submitter` writes."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of Batch's machines and jobs, which the provider's default tags don't reach."
  type        = map(string)
  default     = {}
}

# The only switch of its kind, and its whole list: modules ask for it nowhere else.
variable "unsupported_by_emulators" {
  description = <<-TEXT
    For tests against moto's server only: leaves out what it can't do. That is the saved queries of Logs Insights
    (PutQueryDefinition is not implemented).
  TEXT
  type        = bool
  default     = false
}
