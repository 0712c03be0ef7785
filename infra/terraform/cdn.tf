# CloudFront in front of the results bucket, where cdn is set. Recipe: ../README.md.

module "cdn" {
  source = "./modules/cdn"
  count  = var.cdn == null ? 0 : 1

  name               = var.name
  bucket_domain_name = module.storage.results_domain_name
  results_prefix     = var.results_prefix
  public_key_pem     = var.cdn.public_key_pem
  aliases            = var.cdn.aliases
  certificate_arn    = var.cdn.certificate_arn
  price_class        = var.cdn.price_class
}

variable "cdn" {
  description = "CloudFront in front of the results bucket, for browsers with cookies that your application signs; null: none."
  type = object({
    public_key_pem  = string
    aliases         = optional(list(string), [])
    certificate_arn = optional(string)
    price_class     = optional(string, "PriceClass_100")
  })
  default = null

  validation {
    condition     = var.cdn == null || var.existing_buckets.results == null
    error_message = "cdn needs a results bucket that is created here: the policy of one that exists isn't changed."
  }
}

output "cdn" {
  description = "base_url (RESULTS_BASE_URL) and key_pair_id (for signing cookies); null without cdn."
  value       = var.cdn == null ? null : { base_url = module.cdn[0].base_url, key_pair_id = module.cdn[0].key_pair_id }
}
