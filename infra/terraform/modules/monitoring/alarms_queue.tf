# What is waiting, how long, and how it ends.

locals {
  # The metrics of each service that alarms and dashboard are made of, by service and name.
  queue_metrics = {
    for service, s in var.services : service => {
      waiting = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = s.queue_name }, statistic = "Average" }
      working = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesNotVisible", dimensions = { QueueName = s.queue_name }, statistic = "Average" }
      deleted = { namespace = "AWS/SQS", name = "NumberOfMessagesDeleted", dimensions = { QueueName = s.queue_name }, statistic = "Sum" }
      oldest  = { namespace = "AWS/SQS", name = "ApproximateAgeOfOldestMessage", dimensions = { QueueName = s.queue_name }, statistic = "Maximum" }
      dead    = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = s.dead_letter_queue_name }, statistic = "Maximum" }
    }
  }

  worker_metrics = {
    for service in keys(var.services) : service => {
      for id, metric in {
        done        = { name = "MessagesDone", statistic = "Sum" }
        put_back    = { name = "MessagesPutBack", statistic = "Sum" }
        rejected    = { name = "MessagesRejected", statistic = "Sum" }
        memory      = { name = "MemoryShare", statistic = "Maximum" }
        gpu         = { name = "GpuUtilisation", statistic = "Average" }
        temperature = { name = "GpuTemperatureC", statistic = "Maximum" }
      } :
      id => merge(metric, {
        namespace  = var.metrics_namespace
        dimensions = { Environment = var.environment, Service = service }
      })
    }
  }

  # Grouping has one message under work for as long as a gallery takes.
  silent_minutes = { for service, s in var.services : service => coalesce(s.silent_minutes, service == "grouping" ? 60 : 20) }

  queue_alarms = merge([
    for service, s in var.services : {
      "${service}-backlog" = {
        runbook = "backlog"
        says    = "At the pace of the last minutes, what waits for ${service} is done later than in ${s.latency_goal_s} s."
        label   = "seconds until the backlog is done"
        # Where nothing is done there is no pace; that is no-progress.
        expression = "IF(deleted > 0, waiting / deleted * 300, 0)"
        metrics    = { waiting = local.queue_metrics[service].waiting, deleted = local.queue_metrics[service].deleted }
        threshold  = s.latency_goal_s
        below      = false
        period_s   = 300
        periods    = 3 # machines take some five minutes; a backlog that outlasts fifteen is not a burst being answered
        of_them    = 3
        missing    = "notBreaching"
        tells_ok   = true
      }

      "${service}-oldest-message" = {
        runbook    = "oldest-message"
        says       = "A message for ${service} has waited for twice the goal of ${s.latency_goal_s} s."
        label      = ""
        expression = null
        metrics    = { m = local.queue_metrics[service].oldest }
        threshold  = 2 * s.latency_goal_s
        below      = false
        period_s   = 60
        periods    = 5
        of_them    = 5
        missing    = "notBreaching" # an empty queue has no oldest message
        tells_ok   = true
      }

      "${service}-dead-letters" = {
        runbook    = "dead-letters"
        says       = "Messages for ${service} could not be understood, or failed again and again."
        label      = ""
        expression = null
        metrics    = { m = local.queue_metrics[service].dead }
        threshold  = 1
        below      = false
        period_s   = 60
        periods    = 1
        of_them    = 1
        missing    = "notBreaching" # an empty queue is not reported
        tells_ok   = true
      }

      "${service}-failures" = {
        runbook = "failures"
        says    = "${var.failure_percent} % of the messages for ${service} or more end in a rejection or another try."
        label   = "percent of messages that fail"
        # Below 20 messages one failure is 5 %, and says nothing.
        expression = join("", [
          "IF((FILL(done, 0) + FILL(put_back, 0) + FILL(rejected, 0)) >= 20, ",
          "100 * (FILL(put_back, 0) + FILL(rejected, 0)) / (FILL(done, 0) + FILL(put_back, 0) + FILL(rejected, 0)), 0)",
        ])
        metrics = {
          done     = local.worker_metrics[service].done
          put_back = local.worker_metrics[service].put_back
          rejected = local.worker_metrics[service].rejected
        }
        threshold = var.failure_percent
        below     = false
        period_s  = 300
        periods   = 3
        of_them   = 3
        missing   = "notBreaching"
        tells_ok  = true
      }

      "${service}-no-progress" = {
        runbook = "no-progress"
        says    = "Messages wait for ${service}, and none was done for ${local.silent_minutes[service]} minutes."
        label   = "1 where messages wait and none is done"
        # By what SQS counts: it holds as well where the workers' own metrics don't arrive.
        expression = "IF((FILL(waiting, 0) + FILL(working, 0)) > 0 AND FILL(deleted, 0) == 0, 1, 0)"
        metrics = {
          waiting = local.queue_metrics[service].waiting
          working = local.queue_metrics[service].working
          deleted = local.queue_metrics[service].deleted
        }
        threshold = 1
        below     = false
        period_s  = 300
        periods   = local.silent_minutes[service] / 5
        of_them   = local.silent_minutes[service] / 5
        missing   = "notBreaching" # nothing is reported of a queue without traffic, and nothing waits there
        tells_ok  = true
      }
    }
  ]...)
}
