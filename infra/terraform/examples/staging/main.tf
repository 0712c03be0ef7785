# Staging: no GPUs, Spot only, nothing runs (and nothing of it costs) while no photos come. One task to a c5.2xlarge,
# with 2 GB of shared memory, as many as five of them.

module "face_worker" {
  source = "../.."

  name             = "face-worker-staging"
  environment      = "staging"
  image_tag        = var.image_tag
  mongo_uris       = var.mongo_uris
  alarm_emails     = var.alarm_emails
  runbook_base_url = var.runbook_base_url
  force_destroy    = true

  # As in the default VPC of an account: public subnets, no NAT gateway. Nothing may come in all the same.
  network = { vpc_id = var.vpc_id, subnet_ids = var.subnet_ids, public_ip = true }

  log_retention_days  = 30
  photos_expire_days  = 30
  photo_notifications = { enabled = true }

  pools = {
    # Types of the same size beside c5.2xlarge: for Spot, each is one more place to find a machine.
    detection = { instance_types = ["c5.2xlarge", "c5a.2xlarge", "c5d.2xlarge", "c6i.2xlarge"], max_instances = 5 }
    grouping  = { instance_types = ["r5.large", "r5a.large", "r6i.large"], max_instances = 1 }
  }

  detection = {
    pool                 = "detection"
    one_task_an_instance = true
    task                 = { cpu = 7680, memory_mib = 13312, shared_memory_mib = 2048 }
    # 0.1 s: from the figures of docs/costs.md; put in what your own photos take (docs/operations.md).
    scaling = { max_tasks = 5, latency_goal_s = 900, seconds_per_message = 0.1 }
  }

  grouping = {
    pool                 = "grouping"
    one_task_an_instance = true
    task                 = { cpu = 1792, memory_mib = 13312 }
    scaling              = { max_tasks = 1, latency_goal_s = 1800, seconds_per_message = 60 }
  }
}
