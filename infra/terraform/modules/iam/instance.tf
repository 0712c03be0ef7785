# Machines of ECS and of Batch. The managed policy AmazonEC2ContainerServiceforEC2Role would let a machine join and
# leave any cluster of the account, pull any image and write any log; pulling and logging are the execution role's here.

locals {
  clusters = {
    ecs = [for arn in compact([var.ecs_cluster_arn]) : arn]
    # Batch makes an ECS cluster for each compute environment, named after it in one of these two ways.
    batch = [
      "arn:${local.partition}:ecs:${local.region}:${local.account}:cluster/AWSBatch-${var.name}-*",
      "arn:${local.partition}:ecs:${local.region}:${local.account}:cluster/${var.name}-*_Batch_*",
    ]
  }
  machines = toset(compact([var.ecs_cluster_arn == null ? "" : "ecs", var.batch_enabled ? "batch" : ""]))
}

data "aws_iam_policy_document" "instance_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "instance" {
  for_each = local.machines

  # Asks where the control plane is; it knows no resource.
  statement {
    sid       = "FindControlPlane"
    actions   = ["ecs:DiscoverPollEndpoint"]
    resources = ["*"]
  }

  statement {
    sid = "JoinAndReport"
    actions = [
      "ecs:DeregisterContainerInstance",
      "ecs:RegisterContainerInstance",
      "ecs:SubmitAttachmentStateChanges",
      "ecs:SubmitContainerStateChange",
      "ecs:SubmitTaskStateChange",
    ]
    resources = local.clusters[each.key]
  }

  statement {
    sid       = "TakeTasks"
    actions   = ["ecs:Poll", "ecs:StartTelemetrySession", "ecs:UpdateContainerInstancesState"]
    resources = [for arn in local.clusters[each.key] : "${replace(arn, ":cluster/", ":container-instance/")}/*"]
  }

  # Registering names the instance's tags, which is refused without this.
  statement {
    sid       = "TagItselfWhileJoining"
    actions   = ["ecs:TagResource"]
    resources = [for arn in local.clusters[each.key] : "${replace(arn, ":cluster/", ":container-instance/")}/*"]

    condition {
      test     = "StringEquals"
      variable = "ecs:CreateAction"
      values   = ["RegisterContainerInstance"]
    }
  }
}

resource "aws_iam_role" "instance" {
  for_each = local.machines

  name               = "${var.name}-${each.key}-instance"
  description        = "The face worker's machines under ${each.key == "ecs" ? "ECS" : "AWS Batch"}"
  assume_role_policy = data.aws_iam_policy_document.instance_assume.json
}

resource "aws_iam_role_policy" "instance" {
  for_each = local.machines

  name   = "join-cluster"
  role   = aws_iam_role.instance[each.key].id
  policy = data.aws_iam_policy_document.instance[each.key].json
}

resource "aws_iam_instance_profile" "instance" {
  for_each = local.machines

  name = aws_iam_role.instance[each.key].name
  role = aws_iam_role.instance[each.key].name
}
