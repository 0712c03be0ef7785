# One page, from top to bottom in the order of an operator's questions: is anything wrong, does the work get done, how
# well and how fast, on which machines, at what cost. The rows are in dashboard_work.tf and dashboard_machines.tf.

data "aws_region" "current" {}

locals {
  rows = concat(
    [for service in sort(keys(var.services)) : local.work_charts[service]],
    [for row in [local.photo_charts] : row if contains(keys(var.services), "detection")],
    [for row in [local.gallery_charts] : row if contains(keys(var.services), "grouping")],
    [local.machine_charts, local.cost_charts],
  )

  # The charts of a row share the page's 24 columns.
  charts = concat([], [
    for row_number, row in local.rows : [
      for column, chart in row : {
        type   = "metric"
        x      = column * floor(24 / length(row))
        y      = 3 + row_number * 6
        width  = floor(24 / length(row))
        height = 6
        properties = merge(
          { title = chart.title, metrics = chart.lines },
          { view = "timeSeries", region = data.aws_region.current.name, period = 60, stat = "Sum" },
          try(chart.options, {}),
        )
      }
    ]
  ]...)

  alarm_strip = {
    type       = "alarm"
    x          = 0
    y          = 0
    width      = 24
    height     = 3
    properties = { title = "Alarms", alarms = [for key in sort(keys(local.alarms)) : try(aws_cloudwatch_metric_alarm.plain[key].arn, aws_cloudwatch_metric_alarm.computed[key].arn)] }
  }
}

resource "aws_cloudwatch_dashboard" "page" {
  dashboard_name = var.name
  dashboard_body = jsonencode({ widgets = concat([local.alarm_strip], local.charts) })
}
