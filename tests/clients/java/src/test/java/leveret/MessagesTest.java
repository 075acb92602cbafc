package leveret;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.MessageProperties;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedSet;
import java.util.TreeSet;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Messages: confirms, returns, settling, prefetch, bodies, properties, TTL, dead letters, RPC. */
class MessagesTest extends World {
    private static final String REPLY_TO = "amq.rabbitmq.reply-to";

    @Test
    void confirmsOneByOne() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        channel.confirmSelect();
        for (int n = 1; n <= 5; n++) {
            channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, bytes("m"));
            assertTrue(channel.waitForConfirms(15_000));
            assertEquals(n, ready(channel, queue));
        }
    }

    @Test
    void confirmsInBulkComeOnceForEach() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        channel.confirmSelect();
        SortedSet<Long> outstanding = Collections.synchronizedSortedSet(new TreeSet<>());
        List<String> wrong = Collections.synchronizedList(new ArrayList<>());
        channel.addConfirmListener(
            (tag, multiple) -> {
                if (multiple) {
                    outstanding.headSet(tag + 1).clear();
                } else if (!outstanding.remove(tag)) {
                    wrong.add("confirmed twice: " + tag);
                }
            },
            (tag, multiple) -> wrong.add("nack of " + tag));
        for (String body : numbers(0, 2000)) {
            outstanding.add(channel.getNextPublishSeqNo());
            channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, bytes(body));
        }
        until(outstanding::isEmpty);
        assertEquals(List.of(), wrong);
        assertEquals(numbers(0, 2000), bodies(new Inbox(channel, queue, true).take(2000)));
    }

    @Test
    void mandatoryComesBackBeforeItsConfirm() throws Exception {
        Channel channel = channel();
        List<String> events = Collections.synchronizedList(new ArrayList<>());
        channel.addReturnListener(back -> events.add(String.join(" ", String.valueOf(back.getReplyCode()), back.getReplyText(),
            back.getExchange(), back.getRoutingKey(), back.getProperties().getMessageId(), text(back.getBody()))));
        channel.addConfirmListener((tag, multiple) -> events.add("ack " + tag), (tag, multiple) -> events.add("nack " + tag));
        channel.confirmSelect();
        channel.basicPublish("amq.direct", "nobody-listens-here", true,
            new AMQP.BasicProperties.Builder().messageId("7").build(), bytes("back"));
        until(() -> events.size() >= 2);
        assertEquals(List.of("312 NO_ROUTE amq.direct nobody-listens-here 7 back", "ack 1"), events);
    }

    @Test
    void ackEachAndMultiple() throws Exception {
        Channel watch = channel();
        Channel channel = channel();
        String queue = queue(watch);
        fill(watch, queue, numbers(0, 10));
        List<Delivery> got = new Inbox(channel, queue, false).take(10);
        channel.basicAck(tag(got.get(0)), false);
        channel.basicAck(tag(got.get(6)), true);
        channel.close();
        untilReady(watch, queue, 3);
        List<Delivery> rest = new Inbox(watch, queue, true).take(3);
        assertEquals(numbers(7, 10), bodies(rest));
        assertEquals(List.of(true, true, true), redelivered(rest));
    }

    @ParameterizedTest
    @ValueSource(strings = {"nack", "reject"})
    void requeueReturnsToTheOriginalPlace(String verb) throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 4));
        GetResponse first = get(channel, queue, false);
        GetResponse second = get(channel, queue, false);
        settle(channel, verb, tag(second), true);
        untilReady(channel, queue, 3);
        settle(channel, verb, tag(first), true);
        untilReady(channel, queue, 4);
        List<Delivery> got = new Inbox(channel, queue, true).take(4);
        assertEquals(numbers(0, 4), bodies(got));
        assertEquals(List.of(true, true, false, false), redelivered(got));
    }

    @ParameterizedTest
    @ValueSource(strings = {"nack", "reject"})
    void withoutRequeueItIsDropped(String verb) throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 2));
        settle(channel, verb, tag(get(channel, queue, false)), false);
        channel.close();
        assertEquals(1, ready(channel(), queue));
    }

    private static void settle(Channel channel, String verb, long tag, boolean requeue) throws Exception {
        if (verb.equals("nack")) {
            channel.basicNack(tag, false, requeue);
        } else {
            channel.basicReject(tag, requeue);
        }
    }

    @Test
    void nackMultiple() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 6));
        Inbox inbox = new Inbox(channel, queue, false);
        List<Delivery> got = inbox.take(6);
        channel.basicNack(tag(got.get(2)), true, false);
        channel.basicNack(tag(got.get(5)), true, true);
        List<Delivery> again = inbox.take(3);
        assertEquals(numbers(3, 6), bodies(again));
        assertEquals(List.of(true, true, true), redelivered(again));
    }

    @Test
    void closingAChannelReturnsItsUnackedInOrder() throws Exception {
        Channel watch = channel();
        Channel channel = channel();
        String queue = queue(watch);
        fill(watch, queue, numbers(0, 6));
        channel.basicQos(3);
        new Inbox(channel, queue, false).take(3);
        channel.close();
        untilReady(watch, queue, 6);
        List<Delivery> got = new Inbox(watch, queue, true).take(6);
        assertEquals(numbers(0, 6), bodies(got));
        assertEquals(List.of(true, true, true, false, false, false), redelivered(got));
    }

    @Test
    void prefetchBoundsTheUnacked() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 10));
        channel.basicQos(3);
        Inbox inbox = new Inbox(channel, queue, false);
        List<Delivery> got = inbox.take(3);
        assertEquals(7, ready(channel, queue));
        channel.basicAck(tag(got.get(1)), true);
        assertEquals(numbers(3, 5), bodies(inbox.take(2)));
        assertEquals(5, ready(channel, queue));
    }

    @Test
    void aChannelWidePrefetchIsShared() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 10));
        channel.basicQos(3, true);
        Inbox one = new Inbox(channel, queue, false);
        Inbox two = new Inbox(channel, queue, false);
        until(() -> one.got.size() + two.got.size() == 3);
        assertEquals(7, ready(channel, queue));
    }

    @Test
    void getAnswersAMessageWithItsCountOrNothing() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        assertNull(channel.basicGet(queue, true));
        fill(channel, queue, numbers(0, 3));
        GetResponse message = get(channel, queue, false);
        assertEquals(2, message.getMessageCount());
        assertEquals(queue, message.getEnvelope().getRoutingKey());
        assertFalse(message.getEnvelope().isRedeliver());
        channel.basicAck(tag(message), false);
        assertEquals("1", text(get(channel, queue, true).getBody()));
    }

    @Test
    void aCancelledConsumerGetsNothingMore() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        Inbox inbox = new Inbox(channel, queue, true);
        assertTrue(inbox.tag.startsWith("amq.ctag-"), inbox.tag);
        channel.basicCancel(inbox.tag);
        fill(channel, queue, numbers(0, 1));
        assertTrue(inbox.got.isEmpty());
    }

    @Test
    void consumersTakeTurns() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        Inbox one = new Inbox(channel, queue, true);
        Inbox two = new Inbox(channel, queue, true);
        for (String body : numbers(0, 20)) {
            publish(channel, "", queue, body);
        }
        one.take(10);
        two.take(10);
    }

    @Test
    void anExclusiveConsumerKeepsOthersOut() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        channel.basicConsume(queue, true, "mine", false, true, null, (t, d) -> {}, t -> {});
        refused(403, "ACCESS_REFUSED - queue '" + queue + "' in vhost '/' in exclusive use", () -> new Inbox(channel(), queue, true));
    }

    @Test
    void anUnknownTagIs406() throws Exception {
        Channel channel = channel();
        channel.basicAck(42, false);
        closes(channel, 406, "PRECONDITION_FAILED - unknown delivery tag 42");
    }

    @Test
    void recoverRedeliversTheUnacked() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 2));
        Inbox inbox = new Inbox(channel, queue, false);
        inbox.take(2);
        channel.basicRecover(true);
        List<Delivery> again = inbox.take(2);
        assertEquals(numbers(0, 2), bodies(again));
        assertEquals(List.of(true, true), redelivered(again));
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 131_064, 131_065, 1 << 20})
    void bodiesOfEverySize(int size) throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        byte[] body = new byte[size];
        Arrays.fill(body, (byte) 'x');
        channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, body);
        assertArrayEquals(body, get(channel, queue, true).getBody());
    }

    @Test
    void propertiesRoundTrip() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        AMQP.BasicProperties sent = new AMQP.BasicProperties.Builder()
            .contentType("application/json").contentEncoding("gzip").headers(Map.of("k", 1)).deliveryMode(2).priority(5)
            .correlationId("c-1").replyTo("somewhere").expiration("3600000").messageId("m-1")
            .timestamp(new Date(1_700_000_000_000L)).type("kind").userId("guest").appId("suite").build();
        channel.basicPublish("", queue, sent, bytes("{}"));
        assertEquals(sent, get(channel, queue, true).getProps());
        channel.basicPublish("", queue, PLAIN, bytes("{}"));
        assertEquals(PLAIN, get(channel, queue, true).getProps());
    }

    @Test
    void headersOfAllTypesRoundTrip() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        Map<String, Object> headers = new HashMap<>();
        headers.put("yes", true);
        headers.put("no", false);
        headers.put("byte", (byte) -5);
        headers.put("short", (short) -300);
        headers.put("int", -70_000);
        headers.put("long", 1L << 45);
        headers.put("float", 0.5f);
        headers.put("double", 3.25);
        headers.put("decimal", new BigDecimal("12.34"));
        headers.put("time", new Date(1_700_000_000_000L));
        headers.put("list", Arrays.asList(1, false, null, List.of(2L)));
        headers.put("table", Map.of("inner", Map.of("more", List.of(1)), "none", Map.of()));
        headers.put("nothing", null);
        channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().headers(headers).build(), bytes("m"));
        assertEquals(headers, get(channel, queue, true).getProps().getHeaders());
        // Strings come back as LongString, byte arrays as byte arrays.
        headers = Map.of("text", "grüße", "long", "x".repeat(5000), "bytes", new byte[] {0, -1, -128});
        channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().headers(headers).build(), bytes("m"));
        Map<String, Object> got = get(channel, queue, true).getProps().getHeaders();
        assertEquals("grüße", got.get("text").toString());
        assertEquals(5000, got.get("long").toString().length());
        assertArrayEquals((byte[]) headers.get("bytes"), (byte[]) got.get("bytes"));
    }

    @Test
    void messagesExpire() throws Exception {
        Channel channel = channel();
        String grave = queue(channel, "grave", null);
        Map<String, Object> dead = Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", grave);
        String own = queue(channel, "own", dead);
        Map<String, Object> expiring = new HashMap<>(dead);
        expiring.put("x-message-ttl", 50);
        String bulk = queue(channel, "bulk", expiring);
        channel.basicPublish("", own, new AMQP.BasicProperties.Builder().expiration("50").build(), bytes("own"));
        GetResponse first = get(channel, grave, true);
        assertEquals("own", text(first.getBody()));
        assertNull(first.getProps().getExpiration());
        Map<?, ?> death = deaths(first).get(0);
        assertEquals(1, deaths(first).size());
        assertEquals(List.of("expired", "1", own, "", "50"), List.of(string(death, "reason"), string(death, "count"),
            string(death, "queue"), string(death, "exchange"), string(death, "original-expiration")));
        assertEquals("[" + own + "]", string(death, "routing-keys"));
        assertInstanceOf(Date.class, death.get("time"));
        assertInstanceOf(Long.class, death.get("count"));
        assertEquals("expired", string(first.getProps().getHeaders(), "x-first-death-reason"));
        publish(channel, "", bulk, "bulk");
        assertEquals("bulk", text(get(channel, grave, true).getBody()));
    }

    @Test
    void theRetryLadderCountsItsRounds() throws Exception {
        Channel channel = channel();
        String work = queueName("work");
        String wait = queue(channel, "wait",
            Map.of("x-message-ttl", 50, "x-dead-letter-exchange", "", "x-dead-letter-routing-key", work));
        queue(channel, "work", Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", wait));
        publish(channel, "", work, "job");
        channel.basicNack(tag(get(channel, work, false)), false, false);
        channel.basicReject(tag(get(channel, work, false)), false);
        GetResponse last = get(channel, work, true);
        List<String> summary = deaths(last).stream()
            .map(death -> String.join(" ", string(death, "queue"), string(death, "reason"), string(death, "count"))).toList();
        assertEquals(List.of(wait + " expired 2", work + " rejected 2"), summary);
        assertEquals(work, string(last.getProps().getHeaders(), "x-first-death-queue"));
        assertFalse(last.getEnvelope().isRedeliver());
    }

    private static List<Map<?, ?>> deaths(GetResponse message) {
        List<Map<?, ?>> found = new ArrayList<>();
        for (Object entry : (List<?>) message.getProps().getHeaders().get("x-death")) {
            found.add((Map<?, ?>) entry);
        }
        return found;
    }

    private static String string(Map<?, ?> table, String key) {
        return String.valueOf(table.get(key));
    }

    @Test
    void directReplyTo() throws Exception {
        Channel worker = connect().createChannel();
        String queue = queue(worker);
        worker.basicConsume(queue, true, (t, request) -> worker.basicPublish("", request.getProperties().getReplyTo(),
            new AMQP.BasicProperties.Builder().correlationId(request.getProperties().getCorrelationId()).build(),
            bytes(text(request.getBody()).toUpperCase())), t -> {});
        Channel client = channel();
        Inbox replies = new Inbox(client, REPLY_TO, true);
        for (String n : numbers(0, 10)) {
            client.basicPublish("", queue,
                new AMQP.BasicProperties.Builder().replyTo(REPLY_TO).correlationId(n).build(), bytes("call " + n));
        }
        List<Delivery> got = replies.take(10);
        assertEquals(numbers(0, 10), got.stream().map(d -> d.getProperties().getCorrelationId()).toList());
        assertEquals(numbers(0, 10).stream().map(n -> "CALL " + n).toList(), bodies(got));
    }

    @Test
    void aRequestWithoutAReplyConsumerIs406() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().replyTo(REPLY_TO).build(), bytes("m"));
        closes(channel, 406, "PRECONDITION_FAILED - fast reply consumer does not exist");
    }

    @Test
    void transactions() throws Exception {
        Channel watch = channel();
        Channel channel = channel();
        String queue = queue(watch);
        channel.txSelect();
        publish(channel, "", queue, "kept");
        channel.txCommit();
        assertEquals(1, ready(watch, queue));
        publish(channel, "", queue, "dropped");
        channel.txRollback();
        assertEquals(1, ready(watch, queue));
    }
}
