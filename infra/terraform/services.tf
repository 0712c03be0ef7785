# What the services are given, wherever they run. Each gets only the settings and secrets that it reads.

locals {
  common_environment = merge(
    {
      AWS_DEFAULT_REGION         = local.region
      GROUP_FACE_QUEUE_URL       = module.queues.queues.grouping.url
      FACE_GROUP_BUCKET_NAME     = module.storage.buckets["results"].name
      RESULTS_PREFIX             = var.results_prefix
      MESSAGE_VISIBILITY_TIMEOUT = tostring(var.queues.visibility_timeout_s)
      ENVIRONMENT                = var.environment
      METRICS                    = "emf"
      METRICS_NAMESPACE          = var.metrics_namespace
    },
    var.model_prefix == null ? {} : { MODEL_SOURCE = "s3://${module.storage.buckets["models"].name}/${trimsuffix(var.model_prefix, "/")}" },
    local.events_arn == null ? {} : { EVENTS = local.events_arn },
    var.worker_log_group == null ? {} : { LOG_GROUP = var.worker_log_group },
  )

  own_environment = {
    detection = merge(
      {
        QUEUE_URL   = module.queues.queues.detection.url
        BUCKET_NAME = module.storage.buckets["photos"].name
      },
      length(var.further_photo_buckets) == 0 ? {} : { ALLOWED_BUCKETS = join(",", var.further_photo_buckets) },
      !var.find.enabled ? {} : {
        FIND_QUEUE_URL           = module.queues.queues.find.url
        FIND_RESULT_DAYS         = tostring(var.find.result_days)
        ALLOWED_REPLY_QUEUE_URLS = join(",", var.find.reply_queue_urls)
        SELFIE_BUCKETS           = join(",", var.find.selfie_buckets)
      },
    )
    grouping = var.cdn == null ? {} : { RESULTS_BASE_URL = module.cdn[0].base_url }
  }

  # Settings of one service win over those of both, and these over what is computed above.
  environment = {
    for name, service in local.services : name => merge(local.common_environment, local.own_environment[name], var.worker_environment, service.environment)
  }

  secret_settings = {
    detection = {
      GALLERY_IMAGES_MONGO_URI = module.secrets.arns.gallery_images
      HUEMN_MONGO_URI          = module.secrets.arns.huemn
    }
    # Requests to forget remove face_index from the owner's documents.
    grouping = {
      GALLERY_IMAGES_MONGO_URI = module.secrets.arns.gallery_images
      HUEMN_MONGO_URI          = module.secrets.arns.huemn
    }
  }

  ecs_services = {
    for name, service in local.services : name => {
      pool                    = service.pool
      task                    = service.task
      scaling                 = service.scaling
      one_task_an_instance    = service.one_task_an_instance
      minimum_healthy_percent = service.minimum_healthy_percent
    }
  }
}
