mock_provider "aws" {}

variables {
  name = "face-worker-test"
}

run "both_secrets_are_created_from_uris" {
  variables {
    uris = { gallery_images = "mongodb+srv://u:p@a/gallery_images", huemn = "mongodb://u:p@b/huemn" }
  }
  assert {
    condition     = toset([for secret in aws_secretsmanager_secret.mongo_uri : secret.name]) == toset(["face-worker-test/gallery-images-mongo-uri", "face-worker-test/huemn-mongo-uri"])
    error_message = "the secrets are named otherwise"
  }
  assert {
    condition     = alltrue([for version in aws_secretsmanager_secret_version.mongo_uri : version.secret_string == null])
    error_message = "a URI went into the state"
  }
}

run "secrets_that_exist_are_only_referred_to" {
  command = plan
  variables {
    arns = {
      gallery_images = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:g-abcdef"
      huemn          = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:h-abcdef"
    }
  }
  assert {
    condition     = length(aws_secretsmanager_secret.mongo_uri) == 0 && output.arns == var.arns
    error_message = "secrets are created beside those that exist"
  }
}

run "neither_uris_nor_secrets_are_refused" {
  command         = plan
  expect_failures = [var.uris]
}

run "what_is_no_mongo_uri_is_refused" {
  command = plan
  variables {
    uris = { gallery_images = "postgres://a/b", huemn = "mongodb://b/huemn" }
  }
  expect_failures = [var.uris]
}
