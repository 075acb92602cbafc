// Publishes ten events with confirms.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	url := os.Getenv("AMQP_URL")
	if url == "" {
		url = "amqp://guest:guest@localhost:5672/"
	}
	connection := must(amqp.Dial(url))
	defer connection.Close()
	channel := must(connection.Channel())
	must(channel.QueueDeclare("events", true, false, false, false, nil))
	if err := channel.Confirm(false); err != nil {
		log.Fatal(err)
	}
	for number := range 10 {
		event := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: fmt.Appendf(nil, "event %d", number)}
		confirm := must(channel.PublishWithDeferredConfirm("", "events", false, false, event))
		if must(confirm.WaitContext(context.Background())) {
			fmt.Printf("confirmed: event %d\n", number)
		}
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
