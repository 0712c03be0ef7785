# Saved queries of CloudWatch Logs Insights, under the folder of this system's name.

locals {
  queries = {
    "one photo"       = <<-QUERY
      fields @timestamp, level, message, image, reason, faces, trace_id, @logStream
      | filter @message like /GALLERY\/IMAGE/
      | sort @timestamp asc
    QUERY
    "errors"          = <<-QUERY
      fields @timestamp, service, level, message, message_id, @logStream
      | filter level in ["ERROR", "CRITICAL"]
      | sort @timestamp desc
      | limit 200
    QUERY
    "why put back"    = <<-QUERY
      filter message like /message put back/ or message like /message rejected/
      | parse message /: (?<why>.*)/
      | stats count() as messages, max(@timestamp) as latest by service, why
      | sort messages desc
    QUERY
    "rejected photos" = <<-QUERY
      filter ispresent(image) and ispresent(reason)
      | stats count() as photos by reason
      | sort photos desc
    QUERY
    "slow photos"     = <<-QUERY
      filter ispresent(seconds.detect)
      | fields seconds.fetch + seconds.decode + seconds.detect + seconds.embed + seconds.store as total
      | display image, total, seconds.fetch, seconds.decode, seconds.detect, seconds.embed, seconds.store, seconds.device_wait
      | sort total desc
      | limit 50
    QUERY
    "ends of workers" = <<-QUERY
      fields @timestamp, service, exit_code, unfinished, @logStream
      | filter message = "stopped" or level = "CRITICAL"
      | sort @timestamp desc
      | limit 200
    QUERY
    "submitter"       = <<-QUERY
      fields @timestamp, job_name, visible, active, wanted, submitted, traffic_share
      | filter ispresent(wanted)
      | sort @timestamp desc
      | limit 200
    QUERY
  }
}

resource "aws_cloudwatch_query_definition" "saved" {
  for_each = { for name, query in local.queries : name => query if var.saved_queries }

  name            = "${var.name}/${each.key}"
  log_group_names = var.log_group_names
  query_string    = each.value
}
