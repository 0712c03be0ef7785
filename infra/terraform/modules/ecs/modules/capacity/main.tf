# A pool of machines that ECS starts and ends itself: a launch template, an Auto Scaling group and a capacity provider.

data "aws_ssm_parameter" "ami" {
  count = var.ami_id == null ? 1 : 0

  name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/${var.gpu ? "gpu/" : ""}recommended/image_id"
}

resource "aws_launch_template" "machine" {
  name                   = var.name
  description            = "Machines of the face worker, as ECS starts them"
  image_id               = var.ami_id == null ? data.aws_ssm_parameter.ami[0].insecure_value : var.ami_id
  update_default_version = true
  user_data              = base64encode(local.user_data)

  iam_instance_profile {
    arn = var.instance_profile_arn
  }

  network_interfaces {
    security_groups             = [var.security_group_id]
    associate_public_ip_address = var.public_ip
    delete_on_termination       = true
  }

  # One hop, so that a container can't take the machine's role: its answer would need a second hop over the bridge.
  # Containers lose nothing by it: their own credentials come from the agent (169.254.170.2), and it is the agent,
  # on the host's network, that watches for Spot notices and passes them on as SIGTERM.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = var.root_volume_gib
      throughput            = 250
      encrypted             = true
      delete_on_termination = true
    }
  }

  monitoring {
    enabled = true
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = var.name }
  }

  tag_specifications {
    resource_type = "volume"
    tags          = { Name = var.name }
  }
}

locals {
  # The agent tells a task of a Spot interruption only where draining is set. Images are never changed under their
  # tag, so one that is there need not be asked for again.
  user_data = <<-SCRIPT
    #!/bin/bash
    set -euo pipefail
    cat >>/etc/ecs/ecs.config <<'CONFIG'
    ECS_CLUSTER=${var.cluster_name}
    ECS_ENABLE_SPOT_INSTANCE_DRAINING=true
    ECS_ENABLE_GPU_SUPPORT=${var.gpu}
    ECS_IMAGE_PULL_BEHAVIOR=prefer-cached
    ECS_AWSVPC_BLOCK_IMDS=true
    CONFIG
  SCRIPT
}
