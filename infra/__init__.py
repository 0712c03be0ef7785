"""What runs the system on AWS, and the tools around it: Terraform, the Lambda, deploying, costs."""
