# Production: GPUs, one On-Demand machine that is always there and Spot above it, and AWS Batch beside ECS, ready to take
# its share (traffic_share) or all of the work.

module "face_worker" {
  source = "../.."

  name             = "face-worker-production"
  environment      = "production"
  image_tag        = var.image_tag
  mongo_uris       = var.mongo_uris
  alarm_emails     = var.alarm_emails
  runbook_base_url = var.runbook_base_url

  batch_enabled = true
  traffic_share = var.traffic_share

  # Private subnets, whose way out is a NAT gateway; photos and images go by S3's gateway endpoint, which is free.
  network = {
    vpc_id              = var.vpc_id
    subnet_ids          = var.subnet_ids
    s3_gateway_endpoint = true
    route_table_ids     = var.route_table_ids
  }

  # g4dn.xlarge and g4dn.2xlarge have the same GPU (one T4); the larger one is there for when the smaller can't be had.
  pools = {
    gpu = {
      instance_types = ["g4dn.xlarge", "g4dn.2xlarge"]
      gpu            = true
      min_instances  = 1
      max_instances  = 20
      on_demand      = { base = 1 }
    }
    memory = { instance_types = ["r5.xlarge", "r5a.xlarge", "r6i.xlarge"], max_instances = 4, on_demand = { base = 1 } }
  }

  detection = {
    pool                 = "gpu"
    one_task_an_instance = true
    task                 = { cpu = 3584, memory_mib = 13312, gpus = 1, shared_memory_mib = 2048 }
    # 0.1 s: from the figures of docs/costs.md, measured without a GPU; put in what your own photos take.
    scaling = { min_tasks = 1, max_tasks = 20, latency_goal_s = 600, seconds_per_message = 0.1 }
    batch = {
      messages_per_job = 3000
      max_jobs         = 20
      primary          = { instance_types = ["g4dn.xlarge", "g4dn.2xlarge"], max_vcpus = 160 }
      secondary        = { instance_types = ["g4dn.xlarge", "g4dn.2xlarge"], max_vcpus = 16 }
    }
  }

  grouping = {
    pool                 = "memory"
    one_task_an_instance = true
    task                 = { cpu = 3840, memory_mib = 28672 }
    scaling              = { min_tasks = 1, max_tasks = 4, latency_goal_s = 900, seconds_per_message = 60 }
    batch = {
      messages_per_job = 10
      max_jobs         = 4
      primary          = { instance_types = ["r5.xlarge", "r5a.xlarge", "r6i.xlarge"], max_vcpus = 16 }
    }
  }
}
