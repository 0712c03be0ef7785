terraform {
  required_version = "~> 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }

  # State lies in a bucket, locked by an object beside it; no table is needed. The bucket comes with the command:
  # terraform init -backend-config=bucket=NAME -backend-config=region=REGION
  backend "s3" {
    key          = "face-worker-production.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { Application = "face-worker", Environment = "production" }
  }
}
