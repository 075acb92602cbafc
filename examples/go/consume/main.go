// Consumes events and acknowledges each.
package main

import (
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
	if err := channel.Qos(20, 0, false); err != nil {
		log.Fatal(err)
	}
	deliveries := must(channel.Consume("events", "", false, false, false, false, nil))
	fmt.Println("waiting for events")
	for delivery := range deliveries {
		fmt.Printf("got: %s\n", delivery.Body)
		delivery.Ack(false)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
