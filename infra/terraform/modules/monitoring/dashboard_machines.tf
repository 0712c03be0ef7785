# On which machines, and at what cost.

locals {
  machine_charts = [
    {
      title   = "Tasks on ECS: wanted and running"
      options = { stat = "Average" }
      lines = concat([], [
        for service, s in local.ecs_services : [
          for name in ["DesiredTaskCount", "RunningTaskCount"] :
          ["ECS/ContainerInsights", name, "ClusterName", var.ecs_cluster_name, "ServiceName", s.ecs_service_name, { label = "${service} ${name == "DesiredTaskCount" ? "wanted" : "running"}" }]
        ]
      ]...)
    },
    {
      title   = "Spot interruptions, failed jobs and deployments"
      options = { period = 300 }
      lines = concat(
        [for key in keys(local.event_patterns) : ["AWS/Events", "TriggeredRules", "RuleName", "${var.name}-${key}", { label = key }]],
        [for service in keys(var.services) : concat(local.own[service].SpotInterruptions, [{ label = "${service}: notices seen by workers" }])],
      )
    },
    {
      title = "GPUs: percent busy, °C, and bytes in use"
      lines = concat([], [
        for service in keys(local.gpu_services) : [
          concat(local.own[service].GpuUtilisation, [{ label = "${service} busy", stat = "Average" }]),
          concat(local.own[service].GpuTemperatureC, [{ label = "${service} °C", stat = "Maximum" }]),
          concat(local.own[service].GpuMemoryBytes, [{ label = "${service} bytes", stat = "Maximum", yAxis = "right" }]),
        ]
      ]...)
    },
    {
      title   = "Memory of the fullest worker"
      options = { stat = "Maximum", annotations = { horizontal = [{ label = "alarm", value = var.memory_share }] } }
      lines = concat([], [
        for service in keys(var.services) : [
          concat(local.own[service].MemoryShare, [{ label = "${service} share" }]),
          concat(local.own[service].ProcessMemoryBytes, [{ label = "${service} bytes", yAxis = "right" }]),
        ]
      ]...)
    },
  ]

  # Batch has no metric of its machines; what the account's machines are in sum is in AWS/Usage.
  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_metrics_with_cloudwatch.html
  vcpu_classes = ["Standard/OnDemand", "Standard/Spot", "G/OnDemand", "G/Spot"]

  cost_charts = [
    {
      # An instance that is there for a whole hour is 1 here, so the area under the line is instance-hours.
      title   = "Instances of the ECS cluster, hourly mean"
      options = { period = 3600, stat = "Average" }
      lines = [
        for service, s in var.services :
        ["AWS/AutoScaling", "GroupInServiceInstances", "AutoScalingGroupName", s.autoscaling_group_name, { label = service }] if s.autoscaling_group_name != ""
      ]
    },
    {
      title   = "vCPUs of the account, Spot and On-Demand, hourly mean"
      options = { period = 3600, stat = "Average" }
      lines = [
        for class in local.vcpu_classes :
        ["AWS/Usage", "ResourceCount", "Service", "EC2", "Type", "Resource", "Resource", "vCPU", "Class", class, { label = class }]
      ]
    },
    {
      title   = "Messages done an hour, by where"
      options = { period = 3600, stacked = true }
      lines = concat([], [
        for service in keys(var.services) : [
          for compute in ["ecs", "batch"] : concat(local.own[service].MessagesDone, ["Compute", compute, { label = "${service} on ${compute}" }])
        ]
      ]...)
    },
    {
      title   = "Calls of the submitters, and their errors"
      options = { period = 300 }
      lines = concat([], [
        for service, s in local.submitted_services : [
          for name in ["Invocations", "Errors"] : ["AWS/Lambda", name, "FunctionName", s.submitter_function_name, { label = "${service} ${lower(name)}" }]
        ]
      ]...)
    },
  ]
}
