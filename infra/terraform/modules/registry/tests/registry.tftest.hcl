mock_provider "aws" {}

variables {
  name = "face-worker-test"
}

run "a_tag_stands_for_one_image_for_ever_and_images_are_scanned" {
  assert {
    condition     = aws_ecr_repository.image.image_tag_mutability == "IMMUTABLE"
    error_message = "a tag can be moved to another image"
  }
  assert {
    condition     = aws_ecr_repository.image.image_scanning_configuration[0].scan_on_push
    error_message = "images are not scanned"
  }
}

run "as_many_images_are_kept_as_asked_for" {
  variables {
    keep_images = 12
  }
  assert {
    condition     = jsondecode(aws_ecr_lifecycle_policy.image.policy).rules[1].selection.countNumber == 12
    error_message = "another number is kept"
  }
}

run "so_few_images_that_one_cannot_go_back_are_refused" {
  command = plan
  variables {
    keep_images = 1
  }
  expect_failures = [var.keep_images]
}
