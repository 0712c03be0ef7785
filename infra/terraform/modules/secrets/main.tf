# The two MongoDB URIs. Values given here are write-only: they reach Secrets Manager, and neither plan nor state holds
# them. Where the secrets exist already, arns names them and nothing is created.

locals {
  created = var.arns == null ? toset(["gallery-images", "huemn"]) : toset([])
}

resource "aws_secretsmanager_secret" "mongo_uri" {
  for_each = local.created

  #checkov:skip=CKV_AWS_149:encrypted by Secrets Manager's own key unless kms_key_arn names one
  #checkov:skip=CKV2_AWS_57:the password belongs to MongoDB, whose owner changes it; uris_version writes the new one
  name        = "${var.name}/${each.key}-mongo-uri"
  description = "MongoDB URI of the face worker (${each.key})."
  kms_key_id  = var.kms_key_arn
  # At once where data may go with a destroy, so that the same name can be created again.
  recovery_window_in_days = var.force_destroy ? 0 : 7
}

resource "aws_secretsmanager_secret_version" "mongo_uri" {
  for_each = local.created

  secret_id                = aws_secretsmanager_secret.mongo_uri[each.key].id
  secret_string_wo         = each.key == "huemn" ? var.uris.huemn : var.uris.gallery_images
  secret_string_wo_version = var.uris_version
}
