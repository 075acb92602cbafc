// Opening and closing, queues and exchanges: what is agreed, and what is refused.
package clients

import (
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestServerPropertiesNameWhatClientsLookFor(t *testing.T) {
	w := newWorld(t)
	w.equal(w.connection.Properties["product"], "RabbitMQ")
	capabilities := w.connection.Properties["capabilities"].(amqp.Table)
	for _, name := range []string{"publisher_confirms", "exchange_exchange_bindings", "basic.nack",
		"consumer_cancel_notify", "connection.blocked", "authentication_failure_close"} {
		w.equal(capabilities[name], true)
	}
}

func TestCloseIsClean(t *testing.T) {
	w := newWorld(t)
	closed := w.connection.NotifyClose(make(chan *amqp.Error, 1))
	w.must(w.connection.Close())
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	w := newWorld(t)
	_, err := amqp.Dial(changedURL(func(u *url.URL) { u.User = url.UserPassword("guest", "wrong") }))
	// The client does not say that it knows authentication_failure_close, so the
	// socket just ends, and the words are its own.
	w.refused(err, 403, "username or password not allowed")
}

func TestUnknownVhostIsRefused(t *testing.T) {
	w := newWorld(t)
	_, err := amqp.Dial(changedURL(func(u *url.URL) { u.Path = "/no-such-vhost" }))
	w.refused(err, 530, "NOT_ALLOWED - vhost no-such-vhost not found")
}

func TestLimitsAreNegotiated(t *testing.T) {
	w := newWorld(t)
	connection := w.connect(amqp.Config{Heartbeat: 7 * time.Second, FrameSize: 4096, ChannelMax: 5})
	w.equal(connection.Config.Heartbeat, 7*time.Second)
	w.equal(connection.Config.FrameSize, 4096)
	w.equal(connection.Config.ChannelMax, uint16(5))
	channel, err := connection.Channel()
	w.must(err)
	queue := w.queue(channel, "q", nil)
	body := strings.Repeat("frame", 5000)
	w.fill(channel, queue, body)
	w.equal(string(w.get(channel, queue, true).Body), body)
}

func TestAnIdleConnectionLivesOnHeartbeats(t *testing.T) {
	w := newWorld(t)
	connection := w.connect(amqp.Config{Heartbeat: time.Second})
	time.Sleep(3500 * time.Millisecond)
	channel, err := connection.Channel()
	w.must(err)
	w.queue(channel, "q", nil)
}

func TestAChannelErrorLeavesTheOthersAlive(t *testing.T) {
	w := newWorld(t)
	healthy, sick := w.channel(), w.channel()
	_, err := sick.QueueDeclarePassive("nowhere-at-all", false, false, false, false, nil)
	w.refused(err, 404, "NOT_FOUND - no queue 'nowhere-at-all' in vhost '/'")
	queue := w.queue(healthy, "q", nil)
	w.fill(healthy, queue, "still here")
	w.equal(string(w.get(healthy, queue, true).Body), "still here")
}

func TestTheSecretCanBeUpdated(t *testing.T) {
	w := newWorld(t)
	w.must(w.connection.UpdateSecret("guest", "routine"))
	w.channel()
}

func TestDeclareAnswersNameAndCounts(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.fill(channel, queue, "1", "2")
	w.must(channel.Qos(1, 0, false))
	w.take(w.consume(channel, queue, false), 1)
	state, err := channel.QueueDeclare(queue, true, false, false, false, nil)
	w.must(err)
	w.equal(state, amqp.Queue{Name: queue, Messages: 1, Consumers: 1})
}

func TestMissingExchangeIs404(t *testing.T) {
	w := newWorld(t)
	err := w.channel().ExchangeDeclarePassive("nowhere-at-all", "direct", false, false, false, false, nil)
	w.refused(err, 404, "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'")
	err = w.channel().QueueBind(w.queue(w.channel(), "q", nil), "k", "nowhere-at-all", false, nil)
	w.refused(err, 404, "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'")
}

func TestInequivalentDeclarationsAre406(t *testing.T) {
	w := newWorld(t)
	queue := w.queue(w.channel(), "q", amqp.Table{"x-message-ttl": int32(60000)})
	_, err := w.channel().QueueDeclare(queue, false, false, false, false, amqp.Table{"x-message-ttl": int32(60000)})
	w.refused(err, 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '"+queue+
		"' in vhost '/': received 'false' but current is 'true'")
	_, err = w.channel().QueueDeclare(queue, true, false, false, false, amqp.Table{"x-message-ttl": int32(1)})
	w.refused(err, 406, "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '"+queue+"' in vhost '/': received")
	// The same number in another width is the same argument.
	_, err = w.channel().QueueDeclare(queue, true, false, false, false, amqp.Table{"x-message-ttl": int64(60000)})
	w.must(err)
	exchange := w.exchange(w.channel(), "x", "direct")
	err = w.channel().ExchangeDeclare(exchange, "fanout", false, false, false, false, nil)
	w.refused(err, 406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '"+exchange+
		"' in vhost '/': received 'fanout' but current is 'direct'")
}

func TestReservedNamesAre403(t *testing.T) {
	w := newWorld(t)
	_, err := w.channel().QueueDeclare("amq.mine", false, false, false, false, nil)
	w.refused(err, 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'")
	err = w.channel().ExchangeDelete("amq.direct", false, false)
	w.refused(err, 403, "ACCESS_REFUSED - ")
}

func TestServerNamedQueues(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	declared, err := channel.QueueDeclare("", false, false, true, false, nil)
	w.must(err)
	if !strings.HasPrefix(declared.Name, "amq.gen-") || len(declared.Name) != 30 {
		t.Fatalf("unexpected name %q", declared.Name)
	}
	// An empty name means the queue declared last on this channel.
	w.must(channel.QueueBind("", w.prefix, "amq.direct", false, nil))
	w.publish(channel, "amq.direct", w.prefix, amqp.Publishing{Body: []byte("m")})
	w.equal(string(w.get(channel, declared.Name, true).Body), "m")
}

func TestAnExclusiveQueueIsLockedAndGoesWithItsConnection(t *testing.T) {
	w := newWorld(t)
	owner := w.connect(amqp.Config{})
	channel, err := owner.Channel()
	w.must(err)
	queue := w.queueName("exclusive")
	_, err = channel.QueueDeclare(queue, false, false, true, false, nil)
	w.must(err)
	_, err = w.channel().QueueDeclare(queue, false, false, true, false, nil)
	w.refused(err, 405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '"+queue+"' in vhost '/'")
	w.must(owner.Close())
	_, err = w.channel().QueueDeclarePassive(queue, false, false, true, false, nil)
	w.refused(err, 404, "NOT_FOUND - no queue '"+queue+"' in vhost '/'")
}

func TestAutoDeleteGoesWithTheLastUser(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queueName("auto")
	_, err := channel.QueueDeclare(queue, false, true, false, false, nil)
	w.must(err)
	_, err = channel.Consume(queue, "last", true, false, false, false, nil)
	w.must(err)
	w.must(channel.Cancel("last", false))
	_, err = w.channel().QueueDeclarePassive(queue, false, true, false, false, nil)
	w.refused(err, 404, "NOT_FOUND - no queue '"+queue+"' in vhost '/'")

	exchange := w.prefix + "-auto"
	w.must(channel.ExchangeDeclare(exchange, "fanout", false, true, false, false, nil))
	kept := w.queue(channel, "kept", nil)
	w.must(channel.QueueBind(kept, "", exchange, false, nil))
	w.must(channel.QueueUnbind(kept, "", exchange, nil))
	err = w.channel().ExchangeDeclarePassive(exchange, "fanout", false, true, false, false, nil)
	w.refused(err, 404, "NOT_FOUND - no exchange '"+exchange+"' in vhost '/'")
}

func TestPurgeAndDeleteCount(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.fill(channel, queue, "1", "2", "3")
	count, err := channel.QueuePurge(queue, false)
	w.must(err)
	w.equal(count, 3)
	w.fill(channel, queue, "4", "5")
	count, err = channel.QueueDelete(queue, false, false, false)
	w.must(err)
	w.equal(count, 2)
}

func TestConditionalDeletesAre406(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.fill(channel, queue, "1")
	_, err := w.channel().QueueDelete(queue, false, true, false)
	w.refused(err, 406, "PRECONDITION_FAILED - queue '"+queue+"' in vhost '/' not empty")
	w.consume(channel, queue, false)
	_, err = w.channel().QueueDelete(queue, true, false, false)
	w.refused(err, 406, "PRECONDITION_FAILED - queue '"+queue+"' in vhost '/' in use")
	exchange := w.exchange(channel, "x", "direct")
	w.must(channel.QueueBind(queue, "k", exchange, false, nil))
	w.refused(w.channel().ExchangeDelete(exchange, true, false), 406,
		"PRECONDITION_FAILED - exchange '"+exchange+"' in vhost '/' in use")
}

func TestDeletingAQueueCancelsItsConsumers(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	told := channel.NotifyCancel(make(chan string, 1))
	deliveries, err := channel.Consume(queue, "mine", false, false, false, false, nil)
	w.must(err)
	_, err = w.channel().QueueDelete(queue, false, false, false)
	w.must(err)
	select {
	case tag := <-told:
		w.equal(tag, "mine")
	case <-time.After(patience):
		t.Fatal("no cancel came")
	}
	if _, open := <-deliveries; open {
		t.Fatal("a delivery after the cancel")
	}
	w.queue(channel, "q", nil)
}

func TestTopicBindings(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	exchange := w.exchange(channel, "x", "topic")
	patterns := []string{"#", "log.*", "log.#", "*.error", "*.*.error", "log.#.error"}
	var queues []string
	for n, pattern := range patterns {
		queues = append(queues, w.queue(channel, numbers(9)[n], nil))
		w.must(channel.QueueBind(queues[n], pattern, exchange, false, nil))
	}
	for key, wanted := range map[string][]string{
		"log":            {"#", "log.#"},
		"log.error":      {"#", "log.*", "log.#", "*.error", "log.#.error"},
		"log.disk.error": {"#", "log.#", "*.*.error", "log.#.error"},
		"app.error":      {"#", "*.error"},
		"app":            {"#"},
	} {
		w.confirmed(exchange, key, amqp.Publishing{})
		w.equal(w.reached(channel, queues, patterns), wanted)
	}
}

func TestHeadersBindings(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	exchange := w.exchange(channel, "x", "headers")
	all, any := w.queue(channel, "all", nil), w.queue(channel, "any", nil)
	w.must(channel.QueueBind(all, "", exchange, false, amqp.Table{"x-match": "all", "format": "pdf", "pages": int32(3)}))
	w.must(channel.QueueBind(any, "", exchange, false, amqp.Table{"x-match": "any", "format": "pdf", "pages": int32(3)}))
	for _, c := range []struct {
		headers amqp.Table
		wanted  []string
	}{
		{amqp.Table{"format": "pdf", "pages": int32(3), "more": true}, []string{"all", "any"}},
		{amqp.Table{"format": "pdf"}, []string{"any"}},
		{amqp.Table{"format": "zip", "pages": int32(4)}, nil},
		{nil, nil},
	} {
		w.confirmed(exchange, "ignored", amqp.Publishing{Headers: c.headers})
		w.equal(w.reached(channel, []string{all, any}, []string{"all", "any"}), c.wanted)
	}
}

func TestFanoutAndExchangeToExchange(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	source, fan := w.exchange(channel, "source", "topic"), w.exchange(channel, "fan", "fanout")
	queues := []string{w.queue(channel, "a", nil), w.queue(channel, "b", nil)}
	for _, queue := range queues {
		w.must(channel.QueueBind(queue, "", fan, false, nil))
	}
	w.must(channel.ExchangeBind(fan, "eu.*", source, false, nil))
	w.confirmed(source, "eu.de", amqp.Publishing{})
	w.equal(w.reached(channel, queues, []string{"a", "b"}), []string{"a", "b"})
	w.confirmed(source, "us.ny", amqp.Publishing{})
	w.must(channel.ExchangeUnbind(fan, "eu.*", source, false, nil))
	w.confirmed(source, "eu.de", amqp.Publishing{})
	w.equal(w.reached(channel, queues, []string{"a", "b"}), []string(nil))
}

// confirmed publishes on a channel of its own and waits for the confirm.
func (w *world) confirmed(exchange, key string, message amqp.Publishing) {
	w.Helper()
	channel := w.channel()
	defer channel.Close()
	w.must(channel.Confirm(false))
	confirm, err := channel.PublishWithDeferredConfirmWithContext(w.Context(), exchange, key, false, false, message)
	w.must(err)
	if !confirm.Wait() {
		w.Fatal("not confirmed")
	}
}

// reached empties the queues and names those that held exactly one message.
func (w *world) reached(channel *amqp.Channel, queues, labels []string) (found []string) {
	w.Helper()
	for n, queue := range queues {
		count, err := channel.QueuePurge(queue, false)
		w.must(err)
		if count == 1 {
			found = append(found, labels[n])
		}
	}
	return found
}
