variable "name" {
  description = "Beginning of all names."
  type        = string
}

variable "bucket_domain_name" {
  description = "The results bucket's regional domain name."
  type        = string
}

variable "results_prefix" {
  description = "Beginning of all results' keys."
  type        = string
}

variable "public_key_pem" {
  description = "Public RSA key, of 2048 bits, to the private one with which the application signs cookies."
  type        = string

  validation {
    condition     = startswith(var.public_key_pem, "-----BEGIN PUBLIC KEY-----")
    error_message = "public_key_pem must be a public key in PEM: openssl rsa -pubout -in private.pem."
  }
}

variable "aliases" {
  description = "Names of yours for it, such as photos.example.com; none: CloudFront's own name."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.aliases) == 0 || var.certificate_arn != null
    error_message = "aliases need certificate_arn: a certificate for these names, in us-east-1."
  }
}

variable "certificate_arn" {
  description = "ACM certificate for the aliases, in us-east-1."
  type        = string
  default     = null
}

variable "price_class" {
  description = "From where it is served: PriceClass_100 (North America, Europe), PriceClass_200 or PriceClass_All."
  type        = string
  default     = "PriceClass_100"
}
