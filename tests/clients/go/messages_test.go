// Messages: confirms, returns, settling, prefetch, bodies, properties, TTL, dead letters, RPC.
package clients

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const replyTo = "amq.rabbitmq.reply-to"

func TestConfirmsOneByOneAndInBulk(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.must(channel.Confirm(false))
	var confirms []*amqp.DeferredConfirmation
	for _, body := range numbers(2000) {
		confirm, err := channel.PublishWithDeferredConfirmWithContext(t.Context(), "", queue, false, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
		w.must(err)
		confirms = append(confirms, confirm)
		if len(confirms) == 1 {
			w.equal(confirm.Wait(), true)
			w.equal(w.ready(channel, queue), 1)
		}
	}
	for n, confirm := range confirms {
		w.equal(confirm.DeliveryTag, uint64(n+1))
		acked, err := confirm.WaitContext(t.Context())
		w.must(err)
		w.equal(acked, true)
	}
	w.equal(w.ready(channel, queue), 2000)
	w.equal(bodies(w.take(w.consume(channel, queue, true), 2000)), numbers(2000))
}

func TestMandatoryComesBackBeforeItsConfirm(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	w.must(channel.Confirm(false))
	confirm, err := channel.PublishWithDeferredConfirmWithContext(t.Context(), "amq.direct", "nobody-listens-here", true, false,
		amqp.Publishing{MessageId: "7", Body: []byte("back")})
	w.must(err)
	w.equal(confirm.Wait(), true)
	// The client hands returns on before it looks at the next frame, so it must be here already.
	select {
	case back := <-returns:
		w.equal(back.ReplyCode, uint16(312))
		w.equal(back.ReplyText, "NO_ROUTE")
		w.equal([]string{back.Exchange, back.RoutingKey, back.MessageId, string(back.Body)},
			[]string{"amq.direct", "nobody-listens-here", "7", "back"})
	default:
		t.Fatal("confirmed before it came back")
	}
}

func TestPublishingToAMissingExchangeClosesTheChannel(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	w.refused(w.closed(channel, func() { w.publish(channel, "nowhere-at-all", "k", amqp.Publishing{}) }), 404,
		"NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'")
}

func TestImmediateIsNotImplemented(t *testing.T) {
	w := newWorld(t)
	ended := w.connection.NotifyClose(make(chan *amqp.Error, 1))
	w.must(w.channel().PublishWithContext(t.Context(), "", "k", false, true, amqp.Publishing{}))
	select {
	case err := <-ended:
		w.refused(err, 540, "NOT_IMPLEMENTED - immediate=true")
	case <-time.After(patience):
		t.Fatal("the connection stayed open")
	}
}

func TestAckEachAndMultiple(t *testing.T) {
	w := newWorld(t)
	watch, channel := w.channel(), w.channel()
	queue := w.queue(watch, "q", nil)
	w.fill(watch, queue, numbers(10)...)
	got := w.take(w.consume(channel, queue, false), 10)
	w.must(got[0].Ack(false))
	w.must(got[6].Ack(true))
	w.must(channel.Close())
	w.untilReady(watch, queue, 3)
	w.equal(bodies(w.take(w.consume(watch, queue, true), 3)), []string{"7", "8", "9"})
}

func TestRequeueReturnsToTheOriginalPlace(t *testing.T) {
	for name, settle := range map[string]func(amqp.Delivery) error{
		"nack":   func(d amqp.Delivery) error { return d.Nack(false, true) },
		"reject": func(d amqp.Delivery) error { return d.Reject(true) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			channel := w.channel()
			queue := w.queue(channel, "q", nil)
			w.fill(channel, queue, numbers(4)...)
			first, second := w.get(channel, queue, false), w.get(channel, queue, false)
			w.must(settle(second))
			w.untilReady(channel, queue, 3)
			w.must(settle(first))
			w.untilReady(channel, queue, 4)
			got := w.take(w.consume(channel, queue, true), 4)
			w.equal(bodies(got), numbers(4))
			w.equal(redelivered(got), []bool{true, true, false, false})
		})
	}
}

func TestWithoutRequeueItIsDropped(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.fill(channel, queue, numbers(4)...)
	w.must(w.get(channel, queue, false).Reject(false))
	w.get(channel, queue, false)
	w.must(w.get(channel, queue, false).Nack(true, false))
	w.must(channel.Close())
	w.equal(w.ready(w.channel(), queue), 1)
}

func TestClosingAChannelReturnsItsUnackedInOrder(t *testing.T) {
	w := newWorld(t)
	watch, channel := w.channel(), w.channel()
	queue := w.queue(watch, "q", nil)
	w.fill(watch, queue, numbers(6)...)
	w.must(channel.Qos(3, 0, false))
	w.take(w.consume(channel, queue, false), 3)
	w.must(channel.Close())
	w.untilReady(watch, queue, 6)
	got := w.take(w.consume(watch, queue, true), 6)
	w.equal(bodies(got), numbers(6))
	w.equal(redelivered(got), []bool{true, true, true, false, false, false})
}

func TestPrefetchBoundsTheUnacked(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.fill(channel, queue, numbers(10)...)
	w.must(channel.Qos(3, 0, false))
	deliveries := w.consume(channel, queue, false)
	got := w.take(deliveries, 3)
	w.equal(w.ready(channel, queue), 7)
	w.must(got[1].Ack(true))
	w.equal(bodies(w.take(deliveries, 2)), []string{"3", "4"})
	w.equal(w.ready(channel, queue), 5)
}

func TestAChannelWidePrefetchIsShared(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.fill(channel, queue, numbers(10)...)
	w.must(channel.Qos(3, 0, true))
	one, two := w.consume(channel, queue, false), w.consume(channel, queue, false)
	for range 3 {
		select {
		case <-one:
		case <-two:
		case <-time.After(patience):
			t.Fatal("too few deliveries")
		}
	}
	w.equal(w.ready(channel, queue), 7)
}

func TestGetAnswersAMessageWithItsCountOrNothing(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	_, found, err := channel.Get(queue, true)
	w.must(err)
	w.equal(found, false)
	w.fill(channel, queue, numbers(3)...)
	message := w.get(channel, queue, false)
	w.equal(message.MessageCount, uint32(2))
	w.equal(message.RoutingKey, queue)
	w.must(message.Ack(false))
	w.equal(string(w.get(channel, queue, true).Body), "1")
}

func TestACancelledConsumerEnds(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	deliveries, err := channel.Consume(queue, "mine", true, false, false, false, nil)
	w.must(err)
	w.publish(channel, "", queue, amqp.Publishing{Body: []byte("1")})
	w.take(deliveries, 1)
	w.must(channel.Cancel("mine", false))
	w.fill(channel, queue, "2")
	if _, open := <-deliveries; open {
		t.Fatal("a delivery after cancel-ok")
	}
}

func TestConsumersTakeTurns(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	one, two := w.consume(channel, queue, true), w.consume(channel, queue, true)
	for _, body := range numbers(20) {
		w.publish(channel, "", queue, amqp.Publishing{Body: []byte(body)})
	}
	w.take(one, 10)
	w.take(two, 10)
}

func TestAnExclusiveConsumerKeepsOthersOut(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	_, err := channel.Consume(queue, "", true, true, false, false, nil)
	w.must(err)
	_, err = w.channel().Consume(queue, "", true, false, false, false, nil)
	w.refused(err, 403, "ACCESS_REFUSED - queue '"+queue+"' in vhost '/' in exclusive use")
}

func TestAnUnknownTagIs406(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	w.refused(w.closed(channel, func() { w.must(channel.Ack(42, false)) }), 406, "PRECONDITION_FAILED - unknown delivery tag 42")
}

func TestBodiesOfEverySize(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	for _, size := range []int{0, 1, 131064, 131065, 1 << 20} {
		body := bytes.Repeat([]byte("x"), size)
		w.publish(channel, "", queue, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body})
		w.equal(bytes.Equal(w.get(channel, queue, true).Body, body), true)
	}
}

func TestPropertiesAndHeadersRoundTrip(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	moment := time.Unix(1_700_000_000, 0)
	sent := amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "gzip", DeliveryMode: 2, Priority: 5,
		CorrelationId: "c-1", ReplyTo: "somewhere", Expiration: "3600000", MessageId: "m-1",
		Timestamp: moment, Type: "kind", UserId: "guest", AppId: "suite", Body: []byte("{}"),
		Headers: amqp.Table{
			"yes": true, "no": false, "nothing": nil, "text": "grüße", "bytes": []byte{0, 255, 128},
			"byte": int8(-5), "octet": byte(200), "short": int16(-300), "ushort": uint16(60000),
			"int": int32(-70000), "uint": uint32(4000000000), "long": int64(1) << 45,
			"float": float32(0.5), "double": 3.141592653589793,
			"decimal": amqp.Decimal{Scale: 2, Value: 1234}, "time": moment,
			"list":  []any{int32(1), "two", false, nil, []any{int64(3)}},
			"table": amqp.Table{"inner": amqp.Table{"more": []any{int32(1)}}, "none": amqp.Table{}},
		},
	}
	w.publish(channel, "", queue, sent)
	got := w.get(channel, queue, true)
	back := amqp.Publishing{
		ContentType: got.ContentType, ContentEncoding: got.ContentEncoding, DeliveryMode: got.DeliveryMode,
		Priority: got.Priority, CorrelationId: got.CorrelationId, ReplyTo: got.ReplyTo, Expiration: got.Expiration,
		MessageId: got.MessageId, Timestamp: got.Timestamp, Type: got.Type, UserId: got.UserId, AppId: got.AppId,
		Body: got.Body, Headers: got.Headers,
	}
	if !reflect.DeepEqual(back, sent) {
		t.Fatalf("got  %#v\nwant %#v", back, sent)
	}
}

func TestMessagesExpire(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	grave := w.queue(channel, "grave", nil)
	dead := amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": grave}
	own := w.queue(channel, "own", dead)
	dead["x-message-ttl"] = int32(50)
	bulk := w.queue(channel, "bulk", dead)
	w.publish(channel, "", own, amqp.Publishing{Expiration: "50", Body: []byte("own"), Headers: amqp.Table{"mine": "kept"}})
	first := w.get(channel, grave, true)
	w.equal(string(first.Body), "own")
	w.equal(first.Expiration, "")
	w.equal(first.Headers["mine"], "kept")
	deaths := first.Headers["x-death"].([]any)
	w.equal(len(deaths), 1)
	death := deaths[0].(amqp.Table)
	if _, timed := death["time"].(time.Time); !timed {
		t.Fatalf("no time in %v", death)
	}
	delete(death, "time")
	wanted := amqp.Table{"reason": "expired", "count": int64(1), "queue": own, "exchange": "",
		"routing-keys": []any{own}, "original-expiration": "50"}
	if !reflect.DeepEqual(death, wanted) {
		t.Fatalf("got  %#v\nwant %#v", death, wanted)
	}
	w.equal(first.Headers["x-first-death-reason"], "expired")
	w.publish(channel, "", bulk, amqp.Publishing{Body: []byte("bulk")})
	w.equal(string(w.get(channel, grave, true).Body), "bulk")
}

func TestTheRetryLadderCountsItsRounds(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	work := w.prefix + "-work"
	wait := w.queue(channel, "wait", amqp.Table{"x-message-ttl": int32(50), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": work})
	w.queue(channel, "work", amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": wait})
	w.publish(channel, "", work, amqp.Publishing{Body: []byte("job")})
	w.must(w.get(channel, work, false).Nack(false, false))
	w.must(w.get(channel, work, false).Reject(false))
	last := w.get(channel, work, true)
	var summary []any
	for _, entry := range last.Headers["x-death"].([]any) {
		death := entry.(amqp.Table)
		summary = append(summary, death["queue"], death["reason"], death["count"])
	}
	w.equal(summary, []any{wait, "expired", int64(2), work, "rejected", int64(2)})
	w.equal(last.Headers["x-first-death-queue"], work)
	w.equal(last.Redelivered, false)
}

func TestDirectReplyTo(t *testing.T) {
	w := newWorld(t)
	worker := w.channel()
	queue := w.queue(worker, "q", nil)
	requests := w.consume(worker, queue, true)
	go func() {
		for request := range requests {
			_ = worker.PublishWithContext(t.Context(), "", request.ReplyTo, false, false, amqp.Publishing{
				CorrelationId: request.CorrelationId, Body: []byte(strings.ToUpper(string(request.Body)))})
		}
	}()
	client := w.channel()
	replies := w.consume(client, replyTo, true)
	for _, n := range numbers(10) {
		w.publish(client, "", queue, amqp.Publishing{ReplyTo: replyTo, CorrelationId: n, Body: []byte("call " + n)})
	}
	for n, reply := range w.take(replies, 10) {
		w.equal(reply.CorrelationId, numbers(10)[n])
		w.equal(string(reply.Body), "CALL "+numbers(10)[n])
	}
}

func TestARequestWithoutAReplyConsumerIs406(t *testing.T) {
	w := newWorld(t)
	channel := w.channel()
	queue := w.queue(channel, "q", nil)
	w.refused(w.closed(channel, func() { w.publish(channel, "", queue, amqp.Publishing{ReplyTo: replyTo}) }), 406,
		"PRECONDITION_FAILED - fast reply consumer does not exist")
}

func TestTransactions(t *testing.T) {
	w := newWorld(t)
	watch, channel := w.channel(), w.channel()
	queue := w.queue(watch, "q", nil)
	w.must(channel.Tx())
	w.publish(channel, "", queue, amqp.Publishing{Body: []byte("kept")})
	w.must(channel.TxCommit())
	w.equal(w.ready(watch, queue), 1)
	w.publish(channel, "", queue, amqp.Publishing{Body: []byte("dropped")})
	w.must(channel.TxRollback())
	w.equal(w.ready(watch, queue), 1)
}
