mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
}

variables {
  name       = "face-worker-test"
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1", "subnet-2"]
}

run "nothing_comes_in_and_only_https_and_mongodb_go_out" {
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.endpoints) == 0
    error_message = "something may come in"
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.https.from_port == 443 && aws_vpc_security_group_egress_rule.https.to_port == 443
    error_message = "more than HTTPS goes out"
  }
  assert {
    condition     = [for rule in aws_vpc_security_group_egress_rule.mongo : [rule.from_port, rule.to_port]] == [[27015, 27017]]
    error_message = "MongoDB's ports are others"
  }
  assert {
    condition     = length(aws_vpc_endpoint.s3) == 0 && length(aws_vpc_endpoint.interface) == 0
    error_message = "endpoints are made, and paid, unasked"
  }
}

run "endpoints_answer_the_workers_only" {
  variables {
    s3_gateway_endpoint = true
    route_table_ids     = ["rtb-1"]
    interface_endpoints = ["sqs", "ecr.dkr"]
  }
  assert {
    condition     = toset([for endpoint in aws_vpc_endpoint.interface : endpoint.service_name]) == toset(["com.amazonaws.eu-central-1.sqs", "com.amazonaws.eu-central-1.ecr.dkr"])
    error_message = "other endpoints are made"
  }
  assert {
    condition     = aws_vpc_endpoint.s3[0].vpc_endpoint_type == "Gateway"
    error_message = "the endpoint of S3 is one that costs"
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.endpoints[0].referenced_security_group_id == aws_security_group.workers.id
    error_message = "others than the workers reach the endpoints"
  }
}

run "a_gateway_endpoint_without_route_tables_is_refused" {
  command = plan
  variables {
    s3_gateway_endpoint = true
  }
  expect_failures = [var.s3_gateway_endpoint]
}

run "an_endpoint_that_the_worker_has_no_use_for_is_refused" {
  command = plan
  variables {
    interface_endpoints = ["dynamodb"]
  }
  expect_failures = [var.interface_endpoints]
}

run "what_is_no_vpc_no_subnet_no_port_and_no_network_is_refused" {
  command = plan
  variables {
    vpc_id     = "default"
    subnet_ids = []
    mongo      = { from_port = 27017, to_port = 27015, cidrs = ["10.0.0.0"] }
  }
  expect_failures = [var.vpc_id, var.subnet_ids, var.mongo]
}
