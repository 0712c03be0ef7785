output "queues" {
  description = "By service, and `find` where it is enabled: name, url and arn of its queue, and the same of its dead-letter queue in `dead`."
  value = {
    for name in local.names : name => {
      name = aws_sqs_queue.work[name].name
      url  = aws_sqs_queue.work[name].url
      arn  = aws_sqs_queue.work[name].arn
      dead = {
        name = aws_sqs_queue.dead[name].name
        url  = aws_sqs_queue.dead[name].url
        arn  = aws_sqs_queue.dead[name].arn
      }
    }
  }
}

output "arn_for_photo_bucket" {
  description = "The detection queue's ARN, once its policy lets the photo bucket or its rule send: S3 tries it at once."
  value       = aws_sqs_queue.work["detection"].arn
  depends_on  = [aws_sqs_queue_policy.queue]
}
