// What the amqp091-go suites share: a connection a test, unique names, waiting.
//
// Every name carries a random prefix and is deleted after its test. AMQP_URL names the broker.
package clients

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const patience = 15 * time.Second

var passed, failed atomic.Int64

func TestMain(m *testing.M) {
	code := m.Run()
	fmt.Printf("go: %d passed, %d failed\n", passed.Load(), failed.Load())
	os.Exit(code)
}

func brokerURL() string {
	if found := os.Getenv("AMQP_URL"); found != "" {
		return found
	}
	return "amqp://guest:guest@localhost:5672/"
}

func changedURL(change func(*url.URL)) string {
	parsed, err := url.Parse(brokerURL())
	if err != nil {
		panic(err)
	}
	change(parsed)
	return parsed.String()
}

type world struct {
	*testing.T
	prefix     string
	connection *amqp.Connection
	queues     []string
	exchanges  []string
}

// newWorld opens a connection for one test, and cleans up behind it.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, prefix: "clients-go-" + strings.ToLower(rand.Text()[:12])}
	t.Cleanup(func() {
		w.clean()
		if t.Failed() {
			failed.Add(1)
		} else {
			passed.Add(1)
		}
	})
	w.connection = w.connect(amqp.Config{})
	return w
}

func (w *world) connect(config amqp.Config) *amqp.Connection {
	w.Helper()
	connection, err := amqp.DialConfig(brokerURL(), config)
	w.must(err)
	w.Cleanup(func() { connection.Close() })
	return connection
}

func (w *world) clean() {
	connection, err := amqp.Dial(brokerURL())
	if err != nil {
		w.Errorf("cleaning: %v", err)
		return
	}
	defer connection.Close()
	w.connection.Close()
	channel, err := connection.Channel()
	w.must(err)
	for _, name := range w.queues {
		if _, err := channel.QueueDelete(name, false, false, false); err != nil {
			w.Errorf("cleaning %s: %v", name, err)
		}
	}
	for _, name := range w.exchanges {
		if err := channel.ExchangeDelete(name, false, false); err != nil {
			w.Errorf("cleaning %s: %v", name, err)
		}
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) channel() *amqp.Channel {
	w.Helper()
	channel, err := w.connection.Channel()
	w.must(err)
	return channel
}

func (w *world) queueName(label string) string {
	w.queues = append(w.queues, w.prefix+"-"+label)
	return w.queues[len(w.queues)-1]
}

func (w *world) queue(channel *amqp.Channel, label string, args amqp.Table) string {
	w.Helper()
	declared, err := channel.QueueDeclare(w.queueName(label), true, false, false, false, args)
	w.must(err)
	return declared.Name
}

func (w *world) exchange(channel *amqp.Channel, label, kind string) string {
	w.Helper()
	w.exchanges = append(w.exchanges, w.prefix+"-"+label)
	name := w.exchanges[len(w.exchanges)-1]
	w.must(channel.ExchangeDeclare(name, kind, false, false, false, false, nil))
	return name
}

// ready tells how many messages are ready, after all that this channel sent before.
func (w *world) ready(channel *amqp.Channel, queue string) int {
	w.Helper()
	state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	w.must(err)
	return state.Messages
}

func (w *world) until(done func() bool) {
	w.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatal("waited too long")
		}
	}
}

func (w *world) untilReady(channel *amqp.Channel, queue string, count int) {
	w.Helper()
	w.until(func() bool { return w.ready(channel, queue) == count })
}

func (w *world) publish(channel *amqp.Channel, exchange, key string, message amqp.Publishing) {
	w.Helper()
	w.must(channel.PublishWithContext(w.Context(), exchange, key, false, false, message))
}

// fill publishes the bodies to the queue and waits until they are all in it.
func (w *world) fill(channel *amqp.Channel, queue string, bodies ...string) {
	w.Helper()
	before := w.ready(channel, queue)
	for _, body := range bodies {
		w.publish(channel, "", queue, amqp.Publishing{Body: []byte(body)})
	}
	w.untilReady(channel, queue, before+len(bodies))
}

// get fetches one message, waiting for it to be routed.
func (w *world) get(channel *amqp.Channel, queue string, autoAck bool) amqp.Delivery {
	w.Helper()
	var message amqp.Delivery
	w.until(func() bool {
		found, ok, err := channel.Get(queue, autoAck)
		w.must(err)
		message = found
		return ok
	})
	return message
}

func (w *world) consume(channel *amqp.Channel, queue string, autoAck bool) <-chan amqp.Delivery {
	w.Helper()
	deliveries, err := channel.Consume(queue, "", autoAck, false, false, false, nil)
	w.must(err)
	return deliveries
}

// take receives so many deliveries.
func (w *world) take(deliveries <-chan amqp.Delivery, count int) []amqp.Delivery {
	w.Helper()
	var got []amqp.Delivery
	for len(got) < count {
		select {
		case delivery, open := <-deliveries:
			if !open {
				w.Fatalf("the consumer ended after %d of %d deliveries", len(got), count)
			}
			got = append(got, delivery)
		case <-time.After(patience):
			w.Fatalf("only %d of %d deliveries came", len(got), count)
		}
	}
	return got
}

// refused expects this reply code and text prefix.
func (w *world) refused(err error, code int, prefix string) {
	w.Helper()
	var reply *amqp.Error
	if !errors.As(err, &reply) {
		w.Fatalf("expected %d %q, got %v", code, prefix, err)
	}
	if reply.Code != code || !strings.HasPrefix(reply.Reason, prefix) {
		w.Fatalf("expected %d %q, got %d %q", code, prefix, reply.Code, reply.Reason)
	}
}

// closed does something that has no answer of its own, and waits for the close of the channel.
func (w *world) closed(channel *amqp.Channel, action func()) error {
	w.Helper()
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	action()
	select {
	case err := <-closed:
		return err
	case <-time.After(patience):
		w.Fatal("the channel stayed open")
		return nil
	}
}

func (w *world) equal(got, wanted any) {
	w.Helper()
	if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", wanted) {
		w.Fatalf("got  %#v\nwant %#v", got, wanted)
	}
}

func bodies(deliveries []amqp.Delivery) (found []string) {
	for _, delivery := range deliveries {
		found = append(found, string(delivery.Body))
	}
	return found
}

func redelivered(deliveries []amqp.Delivery) (found []bool) {
	for _, delivery := range deliveries {
		found = append(found, delivery.Redelivered)
	}
	return found
}

func numbers(count int) (found []string) {
	for n := range count {
		found = append(found, fmt.Sprint(n))
	}
	return found
}
