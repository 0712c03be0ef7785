mock_provider "aws" {
  mock_data "aws_ssm_parameter" {
    defaults = { insecure_value = "ami-1" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-1", latest_version = 1 }
  }
  mock_resource "aws_autoscaling_group" {
    defaults = { arn = "arn:aws:autoscaling:eu-central-1:111122223333:autoScalingGroup:1:autoScalingGroupName/it" }
  }
}

variables {
  name                 = "face-worker-test-gpu"
  cluster_name         = "face-worker-test"
  instance_types       = ["g4dn.xlarge", "g4dn.2xlarge"]
  gpu                  = true
  min_instances        = 0
  max_instances        = 5
  on_demand            = { base = 1, percent_above_base = 0 }
  root_volume_gib      = 100
  public_ip            = false
  subnet_ids           = ["subnet-1"]
  security_group_id    = "sg-1"
  instance_profile_arn = "arn:aws:iam::111122223333:instance-profile/ecs"
}

run "machines_are_spot_above_the_base_without_a_highest_price" {
  assert {
    condition     = aws_autoscaling_group.machines.mixed_instances_policy[0].instances_distribution[0].spot_allocation_strategy == "price-capacity-optimized"
    error_message = "another strategy chooses the pools"
  }
  assert {
    condition     = aws_autoscaling_group.machines.mixed_instances_policy[0].instances_distribution[0].on_demand_base_capacity == 1
    error_message = "the On-Demand machine is missing"
  }
  assert {
    condition     = join(",", [for override in aws_autoscaling_group.machines.mixed_instances_policy[0].launch_template[0].override : override.instance_type]) == "g4dn.xlarge,g4dn.2xlarge"
    error_message = "not all instance types are tried"
  }
}

run "ecs_ends_empty_machines_only_and_drains_them_first" {
  assert {
    condition     = aws_autoscaling_group.machines.protect_from_scale_in && aws_ecs_capacity_provider.machines.auto_scaling_group_provider[0].managed_termination_protection == "ENABLED"
    error_message = "a machine with tasks may be ended"
  }
  assert {
    condition     = aws_ecs_capacity_provider.machines.auto_scaling_group_provider[0].managed_draining == "ENABLED"
    error_message = "machines are not drained"
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.machine.user_data), "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true")
    error_message = "tasks hear nothing of a Spot interruption"
  }
  assert {
    condition     = startswith(base64decode(aws_launch_template.machine.user_data), "#!/bin/bash\n")
    error_message = "cloud-init would not run the script"
  }
}

run "containers_cannot_take_the_machines_role" {
  assert {
    condition     = aws_launch_template.machine.metadata_options[0].http_tokens == "required" && aws_launch_template.machine.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "the metadata service answers containers"
  }
  assert {
    condition     = tobool(aws_launch_template.machine.block_device_mappings[0].ebs[0].encrypted)
    error_message = "the disk is not encrypted"
  }
}

run "gpu_machines_take_the_ami_with_a_driver" {
  assert {
    condition     = data.aws_ssm_parameter.ami[0].name == "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
    error_message = "another AMI is taken"
  }
}

run "an_ami_of_ones_own_is_taken_as_it_is" {
  variables {
    ami_id = "ami-2"
  }
  assert {
    condition     = aws_launch_template.machine.image_id == "ami-2" && length(data.aws_ssm_parameter.ami) == 0
    error_message = "the AMI is looked up all the same"
  }
}

run "machines_without_gpu_in_a_gpu_pool_are_refused" {
  command = plan
  variables {
    instance_types = ["g4dn.xlarge", "c5.2xlarge"]
  }
  expect_failures = [var.instance_types]
}

run "numbers_out_of_range_are_refused" {
  command = plan
  variables {
    min_instances   = 6
    on_demand       = { base = 0, percent_above_base = 101 }
    root_volume_gib = 8
    name            = "ecs-machines"
  }
  expect_failures = [var.max_instances, var.on_demand, var.root_volume_gib, var.name]
}
