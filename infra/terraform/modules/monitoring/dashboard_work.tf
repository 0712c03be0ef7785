# Does the work get done, how well, how fast. A line of a chart is a list as CloudWatch writes it: namespace, metric,
# dimensions, options.
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html

locals {
  # Of a photo and of its stages, in the order of app/core/stages.py.
  photo_seconds = [
    "PhotoSeconds", "FetchSeconds", "DecodeSeconds", "DetectSeconds", "DeviceWaitSeconds", "EmbedSeconds", "StoreSeconds",
  ]
  own_names = concat(local.photo_seconds, [
    "PhotosIndexed", "PhotosWithoutFaces", "PhotosLowQuality", "PhotosRejected", "TwinHits", "NotPhotos", "PhotosRemoved",
    "EventsIgnored", "Faces", "FaceQuality",
    "DetectorBatchSize", "DetectorQueueSize", "EmbedderBatchSize", "EmbedderQueueSize", "StoreBatchSize", "StoreQueueSize",
    "People", "FacesGrouped", "GroupingSeconds", "FullRuns", "IncrementalRuns", "GroupingDifference", "IndexHits", "IndexMisses",
    "MessagesDone", "MessagesPutBack", "MessagesRejected", "MessageSeconds", "MessageAgeSeconds", "LeasesLost",
    "EventsSent", "EventsFailed", "EventsWaiting", "Finds", "FindSeconds",
    "SpotInterruptions", "ProcessMemoryBytes", "MemoryShare", "GpuUtilisation", "GpuMemoryBytes", "GpuTemperatureC",
  ])
  # The beginning of the line of one of a service's own metrics.
  own = {
    for service in ["detection", "find", "grouping"] : service => {
      for name in local.own_names : name => [var.metrics_namespace, name, "Environment", var.environment, "Service", service]
    }
  }

  work_charts = {
    for service, s in var.services : service => [
      {
        title   = "${service}: messages in the queue"
        options = { stat = "Average" }
        lines = [
          ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", s.queue_name, { label = "waiting" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", s.queue_name, { label = "in work" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesDelayed", "QueueName", s.queue_name, { label = "delayed" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", s.dead_letter_queue_name, { label = "dead letters", yAxis = "right" }],
        ]
      },
      {
        title   = "${service}: seconds that messages wait"
        options = { annotations = { horizontal = [{ label = "goal", value = s.latency_goal_s }] } }
        lines = [
          ["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", s.queue_name, { label = "oldest in the queue", stat = "Maximum" }],
          concat(local.own[service].MessageAgeSeconds, [{ label = "when received, p95", stat = "p95" }]),
          concat(local.own[service].MessageSeconds, [{ label = "in work, p95", stat = "p95" }]),
        ]
      },
      {
        title = "${service}: how messages end"
        lines = [
          concat(local.own[service].MessagesDone, [{ label = "done", id = "done" }]),
          concat(local.own[service].MessagesPutBack, [{ label = "put back", id = "back" }]),
          concat(local.own[service].MessagesRejected, [{ label = "rejected", id = "rejected" }]),
          concat(local.own[service].LeasesLost, [{ label = "leases lost" }]),
          [{
            label      = "failing, percent"
            yAxis      = "right"
            expression = "100 * (FILL(back, 0) + FILL(rejected, 0)) / (FILL(done, 0) + FILL(back, 0) + FILL(rejected, 0))"
          }],
        ]
      },
      {
        # What traffic_share asked for is seen here as what happened.
        title   = "${service}: percent of messages done on Batch and on ECS"
        options = { period = 300, yAxis = { left = { min = 0, max = 100 } } }
        lines = [
          concat(local.own[service].MessagesDone, ["Compute", "ecs", { id = "ecs", visible = false }]),
          concat(local.own[service].MessagesDone, ["Compute", "batch", { id = "batch", visible = false }]),
          [{ label = "Batch", expression = "100 * FILL(batch, 0) / (FILL(ecs, 0) + FILL(batch, 0))" }],
          [{ label = "ECS", expression = "100 * FILL(ecs, 0) / (FILL(ecs, 0) + FILL(batch, 0))" }],
        ]
      },
    ]
  }

  photo_charts = [
    {
      title   = "Seconds per photo by stage, mean"
      options = { stat = "Average" }
      lines = [
        for name in local.photo_seconds :
        concat(local.own.detection[name], [{ label = trimsuffix(name, "Seconds") }])
      ]
    },
    {
      title = "Seconds per photo"
      lines = [for stat in ["p50", "p95", "p99"] : concat(local.own.detection.PhotoSeconds, [{ label = stat, stat = stat }])]
    },
    {
      title   = "Photos that share a call, and that wait for one, mean"
      options = { stat = "Average" }
      lines = [
        for name in ["DetectorBatchSize", "DetectorQueueSize", "EmbedderBatchSize", "EmbedderQueueSize", "StoreBatchSize", "StoreQueueSize"] :
        concat(local.own.detection[name], [{ label = trimsuffix(name, "Size") }])
      ]
    },
    {
      title = "How photos end"
      lines = [
        for name in [
          "PhotosIndexed", "PhotosWithoutFaces", "PhotosLowQuality", "PhotosRejected", "TwinHits", "NotPhotos", "PhotosRemoved",
          "EventsIgnored",
        ] :
        concat(local.own.detection[name], [{ label = name }])
      ]
    },
    {
      title   = "Faces per photo, and their quality"
      options = { period = 300 }
      lines = [
        concat(local.own.detection.Faces, [{ id = "faces", visible = false }]),
        concat(local.own.detection.PhotosIndexed, [{ id = "indexed", visible = false }]),
        concat(local.own.detection.PhotosWithoutFaces, [{ id = "without", visible = false }]),
        [{ label = "faces per photo", expression = "faces / (FILL(indexed, 0) + FILL(without, 0))" }],
        concat(local.own.detection.FaceQuality, [{ label = "quality, median", stat = "p50", yAxis = "right" }]),
      ]
    },
  ]

  gallery_charts = [
    {
      title   = "Events: sent, failed tries, waiting"
      options = { period = 300 }
      lines = concat([], [
        for service in keys(var.services) : [
          concat(local.own[service].EventsSent, [{ label = "${service} sent" }]),
          concat(local.own[service].EventsFailed, [{ label = "${service} failed tries" }]),
          concat(local.own[service].EventsWaiting, [{ label = "waiting, seen by ${service}", stat = "Maximum", yAxis = "right" }]),
        ]
      ]...)
    },
    {
      title   = "Guests: finds that were answered, and their seconds"
      options = { period = 300 }
      lines = [
        concat(local.own.find.Finds, [{ label = "finds", stat = "Sum" }]),
        concat(local.own.find.FindSeconds, [{ label = "answering, p95", stat = "p95", yAxis = "right" }]),
        concat(local.own.find.MessageAgeSeconds, [{ label = "waiting before, p95", stat = "p95", yAxis = "right" }]),
      ]
    },
    {
      title = "Seconds per grouping run"
      lines = [for stat in ["p50", "p95", "Maximum"] : concat(local.own.grouping.GroupingSeconds, [{ label = stat, stat = stat }])]
    },
    {
      title   = "Grouping runs, and whether their index was there"
      options = { period = 300 }
      lines   = [for name in ["FullRuns", "IncrementalRuns", "IndexHits", "IndexMisses"] : concat(local.own.grouping[name], [{ label = name }])]
    },
    {
      title   = "Faces grouped, and people of a gallery"
      options = { period = 300 }
      lines = [
        concat(local.own.grouping.FacesGrouped, [{ label = "faces" }]),
        concat(local.own.grouping.People, [{ label = "people, median", stat = "p50", yAxis = "right" }]),
      ]
    },
    {
      title   = "Share of faces that a full run moves"
      options = { period = 3600 }
      lines   = [concat(local.own.grouping.GroupingDifference, [{ label = "greatest", stat = "Maximum" }])]
    },
  ]
}
