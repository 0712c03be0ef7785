# What the code calls, on what it calls it on: see app/adapters.

locals {
  found    = var.find == null ? [] : [var.find]
  received = { for service in local.services : service => concat([var.queues[service].arn], service == "detection" ? local.found[*].queue_arn : []) }
  # Detection orders grouping; grouping puts messages of galleries under work back as new ones.
  sent = {
    detection = concat([var.queues.detection.dead.arn, var.queues.grouping.arn], local.found[*].dead_queue_arn, flatten(local.found[*].reply_queue_arns))
    grouping  = [var.queues.grouping.dead.arn, var.queues.grouping.arn]
  }
  # Each service looks up the dead-letter queue behind every queue that it opens.
  opened = {
    detection = concat([for queue in values(var.queues) : queue.arn], local.found[*].queue_arn)
    grouping  = [var.queues.grouping.arn]
  }
  looked_up = {
    detection = concat([for queue in values(var.queues) : queue.dead.arn], local.found[*].dead_queue_arn)
    grouping  = [var.queues.grouping.dead.arn]
  }

  photo_buckets  = [for name in var.photo_bucket_names : "arn:${local.partition}:s3:::${name}"]
  photo_prefixes = length(var.photo_prefixes) == 0 ? ["*"] : [for prefix in var.photo_prefixes : "${prefix}*"]

  replaced_files = ["groups.json", "people.html", "people.vectors"]

  # The keys of results, below results_prefix: see app/core/result_keys.py. Detection writes pictures and removes those of
  # former contents. Grouping replaces its files where they are older than its run, and copies crops as covers.
  results = {
    detection = {
      WritePictures = { actions = ["s3:PutObject", "s3:DeleteObject"], keys = ["faces/*", "previews/*"] }
      ErasePictures = { actions = ["s3:DeleteObjectVersion"], keys = ["faces/*", "previews/*"] }
      ReadVectors   = { actions = ["s3:GetObject"], keys = ["people.vectors"] }
      AnswerFinds   = { actions = ["s3:GetObject", "s3:PutObject", "s3:PutObjectTagging"], keys = ["finds/*"] }
    }
    grouping = {
      ReadCrops    = { actions = ["s3:GetObject"], keys = ["faces/*"] }
      ReplaceFiles = { actions = ["s3:GetObject", "s3:PutObject"], keys = local.replaced_files }
      WriteCovers  = { actions = ["s3:PutObject", "s3:DeleteObject"], keys = ["covers/*"] }
      WriteParts   = { actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], keys = ["groups/*"] }
      # Forgetting removes all of a gallery, in all versions; of a person, the crops of others are written anew.
      Forget       = { actions = ["s3:DeleteObject", "s3:DeleteObjectVersion"], keys = ["*"] }
      RewriteCrops = { actions = ["s3:PutObject", "s3:GetObjectVersion"], keys = ["faces/*"] }
    }
  }
  former_results = !var.former_galleries ? {} : {
    detection = ["*/faces/*", "*/previews/*"]
    grouping  = ["*/faces/*", "*/groups.json", "*/people.html"]
  }
}

data "aws_iam_policy_document" "task" {
  for_each = local.services

  statement {
    sid       = "ReceiveMessages"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]
    resources = local.received[each.key]
  }

  statement {
    sid       = "SendMessages"
    actions   = ["sqs:SendMessage"]
    resources = local.sent[each.key]
  }

  statement {
    sid       = "OpenQueues"
    actions   = ["sqs:GetQueueAttributes"]
    resources = local.opened[each.key]
  }

  statement {
    sid       = "FindDeadLetterQueues"
    actions   = ["sqs:GetQueueUrl"]
    resources = local.looked_up[each.key]
  }

  dynamic "statement" {
    for_each = each.key == "detection" ? [true] : []

    content {
      sid = "ReadPhotos"
      # Workers of before results_prefix read the version that a message names.
      actions   = concat(["s3:GetObject"], var.former_galleries ? ["s3:GetObjectVersion"] : [])
      resources = [for pair in setproduct(local.photo_buckets, local.photo_prefixes) : join("/", pair)]
    }
  }

  # Selfies are removed where their request asks for it.
  dynamic "statement" {
    for_each = each.key == "detection" && length(flatten(local.found[*].selfie_buckets)) > 0 ? [flatten(local.found[*].selfie_buckets)] : []

    content {
      sid       = "ReadAndRemoveSelfies"
      actions   = ["s3:GetObject", "s3:GetObjectVersion", "s3:DeleteObject", "s3:DeleteObjectVersion"]
      resources = [for name in statement.value : "arn:${local.partition}:s3:::${name}/*"]
    }
  }

  # Without leave to list, S3 answers 403 for a photo that is not there, which reads as an outage, and not 404. A read
  # has no s3:prefix, hence "IfExists": a plain condition on it would make every such answer a 403 again.
  dynamic "statement" {
    for_each = each.key == "detection" ? [true] : []

    content {
      sid       = "TellMissingPhotos"
      actions   = ["s3:ListBucket"]
      resources = local.photo_buckets

      condition {
        test     = "StringLikeIfExists"
        variable = "s3:prefix"
        values   = local.photo_prefixes
      }
    }
  }

  dynamic "statement" {
    for_each = local.results[each.key]

    content {
      sid       = statement.key
      actions   = statement.value.actions
      resources = [for key in statement.value.keys : "${var.results_bucket_arn}/${var.results_prefix}*/${key}"]
    }
  }

  dynamic "statement" {
    for_each = contains(keys(local.former_results), each.key) ? [local.former_results[each.key]] : []

    content {
      sid       = "HandleFormerResults"
      actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"]
      resources = [for pattern in statement.value : "${var.results_bucket_arn}/${pattern}"]
    }
  }

  # The copies of what was forgotten: they are compared with MongoDB before each run.
  dynamic "statement" {
    for_each = each.key == "grouping" ? [true] : []

    content {
      sid       = "KeepTombstones"
      actions   = ["s3:PutObject", "s3:GetObjectVersion"]
      resources = ["${var.results_bucket_arn}/${var.results_prefix}tombstones/*"]
    }
  }

  # Detection lists a photo's pictures, grouping a gallery's covers, and what both erase, with its versions. "IfExists" as above, and for the question at the
  # start whether the bucket is there.
  statement {
    sid       = "ListResults"
    actions   = ["s3:ListBucket", "s3:ListBucketVersions"]
    resources = [var.results_bucket_arn]

    condition {
      test     = "StringLikeIfExists"
      variable = "s3:prefix"
      values   = concat(["${var.results_prefix}*"], var.former_galleries ? ["*/faces/*", "*/previews/*"] : [])
    }
  }

  dynamic "statement" {
    for_each = var.ecs_cluster_arn == null ? [] : [var.ecs_cluster_arn]

    content {
      sid       = "ProtectOwnTask"
      actions   = ["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"]
      resources = ["${replace(statement.value, ":cluster/", ":task/")}/*"]
    }
  }

  source_policy_documents = [data.aws_iam_policy_document.task_options.json]
}
