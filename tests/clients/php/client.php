<?php
// The PHP client of the original, in our own words: plain sockets, the bytes that it sends, and
// the way in which it reads. Plays what was recorded of it, case by case, then
// what the recordings cannot hold.
//
// Arguments: address (tcp://HOST:PORT or unix://PATH), server key, key of the namespace `demo`.

declare(strict_types=1);

set_error_handler(function (int $level, string $message, string $file, int $line): bool {
    throw new ErrorException($message, 0, $level, $file, $line);
});

const CONNECT_SECONDS = 4;
const READ_SECONDS = 10;

class Refused extends Exception
{
}

class Client
{
    /** What the last call has sent; '' if nothing. */
    public string $sent = '';
    /** @var resource */
    private $socket;

    public function __construct(string $address)
    {
        $socket = stream_socket_client($address, $number, $text, CONNECT_SECONDS);
        if ($socket === false) {
            throw new RuntimeException("cannot connect to $address: $text");
        }
        stream_set_timeout($socket, READ_SECONDS);
        $this->socket = $socket;
    }

    public function registerNameSpace($name, $key)
    {
        $reply = $this->ask(['action' => 'registerNameSpace', 'name' => $name, 'key' => $key]);
        return self::orThrow($reply)['secretKey'];
    }

    public function auth($name, $sKey)
    {
        self::orThrow($this->ask(['action' => 'auth', 'name' => $name, 'sKey' => $sKey]));
        return '$this';
    }

    public function send($channel, $data, $user = null)
    {
        $params = ['userId' => $user];
        return $this->ask(compact('channel', 'data', 'params'), 'emit');
    }

    public function set($channel, $data, $user = null, $ttl = null)
    {
        return $this->change('set', $channel, $data, $user, $ttl, false);
    }

    public function setAndSend($channel, $data, $user = null, $ttl = null)
    {
        return $this->change('set', $channel, $data, $user, $ttl, true)['success'];
    }

    public function push($channel, $data, $user = null, $ttl = null)
    {
        return $this->change('push', $channel, $data, $user, $ttl, false);
    }

    public function pushAndSend($channel, $data, $user = null, $ttl = null)
    {
        return $this->change('push', $channel, $data, $user, $ttl, true)['success'];
    }

    public function subscribe($channel, $user)
    {
        return $this->grant('subscribe', $channel, $user);
    }

    public function unsubscribe($channel, $user)
    {
        return $this->grant('unsubscribe', $channel, $user);
    }

    public function get($channel, $user = null)
    {
        return $this->ask(['channel' => $channel, 'params' => ['userId' => $user]], 'get');
    }

    public function channelInfo($channel)
    {
        return $this->ask(['channel' => $channel], 'channelInfo');
    }

    public function generateAuthString($user, $sKey)
    {
        if (!$user) {
            throw new Refused('Need user id', 0);
        }
        $part = fn(string $bytes): string => rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
        $head = $part(json_encode(['typ' => 'JWT', 'alg' => 'HS256']));
        $text = $head . '.' . $part(json_encode(['i' => $user]));
        return $text . '.' . $part(hash_hmac('sha256', $text, $sKey, true));
    }

    private function change(string $action, $channel, $data, $userId, $ttl, bool $emit)
    {
        $params = compact('userId', 'emit', 'ttl');
        return $this->ask(compact('channel', 'data', 'params'), $action);
    }

    private function grant(string $action, $channel, $user)
    {
        if ($channel[0] !== '#') {
            return false;
        }
        $request = ['channel' => $channel, 'params' => ['userId' => $user]];
        return $this->ask($request, $action)['success'];
    }

    private function ask(array $request, ?string $action = null)
    {
        $request = $action === null ? $request : ['action' => $action] + $request;
        $body = json_encode($request);
        $this->sent = pack('V', strlen($body)) . $body . "\0";
        if (fwrite($this->socket, $this->sent) !== strlen($this->sent)) {
            throw new RuntimeException('not all was sent');
        }
        return json_decode($this->read(), true, 512, JSON_THROW_ON_ERROR);
    }

    /** 4 bytes, the body in reads of at most 1024 of which each counts as full, and 1 byte. */
    private function read(): string
    {
        $length = unpack('V', fread($this->socket, 4))[1];
        $body = '';
        for ($left = $length; $left > 0; $left -= 1024) {
            $body .= fread($this->socket, min(1024, $left));
        }
        $end = fread($this->socket, 1);
        if (strlen($body) !== $length || $end !== "\0") {
            throw new RuntimeException("lost its place: $length bytes announced, " . strlen($body)
                . ' read, then ' . bin2hex($end));
        }
        return $body;
    }

    private static function orThrow(array $reply): array
    {
        if (!$reply['success']) {
            throw new Refused($reply['reason'], $reply['code']);
        }
        return $reply;
    }
}

function same($expected, $actual, string $what): void
{
    if ($expected !== $actual) {
        throw new RuntimeException($what . "\n  expected " . json_encode($expected)
            . "\n  actual   " . json_encode($actual));
    }
}

/** What a call gives: `['returns', value]` or `['throws', [text, code]]`. */
function outcome(Client $client, string $call, array $arguments): array
{
    $client->sent = '';
    try {
        return ['returns', $client->$call(...$arguments)];
    } catch (Refused $refused) {
        return ['throws', [$refused->getMessage(), $refused->getCode()]];
    }
}

/** Plays one recorded call: the bytes it sends and what it makes of the reply. */
function play(Client $client, array $recorded, string $what): void
{
    $arguments = $recorded['args'];
    if (isset($recorded['longData'])) {
        $arguments[] = str_repeat('x', $recorded['longData']);
    }
    [$kind, $value] = outcome($client, $recorded['call'], $arguments);

    if (isset($recorded['sha256'])) {
        same($recorded['sha256'], hash('sha256', $client->sent), "$what: bytes sent");
    } else {
        $body = $recorded['sends'] ?? '';
        $frame = $body === '' ? '' : pack('V', strlen($body)) . $body . "\0";
        same(bin2hex($frame), bin2hex($client->sent), "$what: bytes sent");
    }

    $nobody = ['countUser' => 0, 'countConnection' => 0, 'connId_UserId' => []];
    if ($recorded['call'] === 'channelInfo' && $value === $nobody) {
        $value = false; // the two ways to say that a channel is empty (protocol part 4)
    }
    if (isset($recorded['returnsLong'])) {
        same(['returns', str_repeat('x', $recorded['returnsLong'])], [$kind, $value], $what);
    } elseif (isset($recorded['throws'])) {
        same(['throws', $recorded['throws']], [$kind, $value], $what);
    } else {
        same(['returns', $recorded['returns']], [$kind, $value], $what);
    }
}

function playRecorded(string $address, Client $admin): int
{
    $text = file_get_contents(__DIR__ . '/recorded.json');
    $cases = json_decode($text, true, 512, JSON_THROW_ON_ERROR);
    foreach ($cases as $case) {
        foreach (['channel', '@channel', 'big', 'канал'] as $channel) {
            foreach ([null, 5] as $user) {
                $admin->set($channel, null, $user); // every case was recorded on empty storage
            }
        }
        $client = new Client($address);
        foreach ($case['calls'] as $number => $recorded) {
            play($client, $recorded, "$case[case], call $number ($recorded[call])");
        }
    }
    return count($cases);
}

/** What no recording holds: a list state, our own server key, replies longer than one read. */
function playOurs(string $address, Client $client, string $serverKey): void
{
    same(true, $client->push('list', 'a')['success'], 'push');
    same(true, $client->pushAndSend('list', ['b' => 1]), 'pushAndSend');
    same(['a', ['b' => 1]], $client->get('list'), 'get after push');
    same(true, $client->pushAndSend('@list', 'mine', 5, 60), 'push for a user, with a ttl');
    same(['mine'], $client->get('@list', 5), 'get of a user after push');
    same(null, $client->get('@list', 6), 'get of another user');

    // 20 kB still reach a client on the same machine in one piece, if they leave in one write.
    foreach ([1, 1022, 1023, 4096, 8192, 20000] as $length) {
        $text = str_repeat('ü', intdiv($length, 2)) . str_repeat('y', $length % 2);
        same(['success' => true], $client->set('long', $text), "set of $length bytes");
        same($text, $client->get('long'), "get of $length bytes");
    }

    $name = 'php-' . bin2hex(random_bytes(6));
    $register = new Client($address);
    $key = $register->registerNameSpace($name, $serverKey);
    same(1, preg_match('/^[0-9a-f-]{36}$/', $key), "a namespace key: 36 characters, not $key");
    same(
        ['throws', ['Name space is busy', 309]],
        outcome($register, 'registerNameSpace', [$name, $serverKey]),
        'a name that is taken'
    );
    $register->auth($name, $key);
    same(['success' => true], $register->send('channel', 'text', '5'), 'send in the new namespace');
}

[, $address, $serverKey, $demoKey] = $argv;
$admin = new Client($address);
$admin->auth('demo', $demoKey);
$count = playRecorded($address, $admin);
playOurs($address, $admin, $serverKey);
echo "ok: $count recorded cases and ours, over $address\n";
