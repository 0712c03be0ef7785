# The VPC and its subnets exist. This adds the workers' security group (nothing comes in) and, where asked for,
# endpoints, so that traffic to AWS needs no NAT gateway.

data "aws_region" "current" {}

data "aws_vpc" "this" {
  id = var.vpc_id
}

resource "aws_security_group" "workers" {
  #checkov:skip=CKV2_AWS_5:attached by the machines of ECS and Batch, in other modules
  name        = "${var.name}-workers"
  description = "Face worker: no way in, out to AWS and MongoDB"
  vpc_id      = data.aws_vpc.this.id

  tags = { Name = "${var.name}-workers" }

  lifecycle {
    create_before_destroy = true
  }
}

# To anywhere, for AWS publishes no short list of its addresses; within the VPC the endpoints answer.
resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.workers.id
  description       = "AWS APIs, image pulls"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_vpc_security_group_egress_rule" "mongo" {
  for_each = toset(var.mongo.cidrs)

  security_group_id = aws_security_group.workers.id
  description       = "MongoDB"
  ip_protocol       = "tcp"
  from_port         = var.mongo.from_port
  to_port           = var.mongo.to_port
  cidr_ipv4         = each.key
}
