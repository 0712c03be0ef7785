locals {
  containers = concat([local.worker], var.collector_image == null ? [] : [local.collector])

  log_configuration = {
    logDriver = "awslogs"
    options = {
      awslogs-group         = aws_cloudwatch_log_group.task.name
      awslogs-region        = data.aws_region.current.name
      awslogs-stream-prefix = "task"
      # In the default mode a slow CloudWatch blocks whoever prints; the buffer then drops the oldest lines instead.
      mode            = "non-blocking"
      max-buffer-size = "25m"
    }
  }

  worker = {
    name      = "worker"
    image     = var.image
    essential = true
    cpu       = var.task.cpu
    memory    = var.task.memory_mib
    resourceRequirements = var.task.gpus == 0 ? null : [
      { type = "GPU", value = tostring(var.task.gpus) },
    ]
    environment = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    secrets     = [for name in sort(keys(var.secrets)) : { name = name, valueFrom = var.secrets[name] }]
    links       = var.collector_image == null ? null : ["collector"]

    user                   = "10001:10001"
    privileged             = false
    readonlyRootFilesystem = true
    mountPoints            = [{ sourceVolume = "index", containerPath = "/var/lib/face-worker", readOnly = false }]
    linuxParameters = {
      initProcessEnabled = true
      sharedMemorySize   = var.task.shared_memory_mib
      tmpfs              = [{ containerPath = "/tmp", size = var.task.tmpfs_mib, mountOptions = ["nosuid", "nodev", "noexec"] }]
      capabilities       = { drop = ["ALL"] }
    }

    # The worker ends started work within SHUTDOWN_DEADLINE_S (80 s); Spot leaves it 120 s in all.
    stopTimeout = 110
    healthCheck = {
      command     = ["CMD", "/opt/venv/bin/python", "-m", "app.health", "--file", "/tmp/health.json", "--max-age-s", "60"]
      interval    = 15
      timeout     = 5
      retries     = 3
      startPeriod = 120
    }
    logConfiguration = local.log_configuration
  }

  environment = merge(
    var.environment,
    { SERVICE_TYPE = var.service_type, WORKER_MODE = "service" },
    var.collector_image == null ? {} : { TRACES_ENDPOINT = "http://collector:4318" },
  )

  collector = {
    name      = "collector"
    image     = var.collector_image
    essential = false
    cpu       = 64
    memory    = 256
    # The configuration that comes with AWS's image: OTLP in, X-Ray and CloudWatch out.
    command                = ["--config=/etc/ecs/ecs-default-config.yaml"]
    readonlyRootFilesystem = true
    logConfiguration       = local.log_configuration
  }
}

data "aws_region" "current" {}
