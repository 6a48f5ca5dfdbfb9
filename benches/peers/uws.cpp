// A topic server on uWebSockets, written as its documentation shows: text messages `sub TOPIC`,
// answered `ok`, and `pub TOPIC DATA`. For `make bench-peers`, which compiles and starts it.
#include "App.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

struct Nothing {};

int main(int argc, char **argv) {
    int port = argc == 2 ? std::atoi(argv[1]) : 0;
    uWS::App app;
    app.ws<Nothing>("/*", {
        .compression = uWS::DISABLED,
        .maxPayloadLength = 1 << 20,
        .idleTimeout = 0,
        .maxBackpressure = 1 << 20,
        .sendPingsAutomatically = false,
        .message = [&app](auto *ws, std::string_view text, uWS::OpCode) {
            if (text.size() < 11) return;
            std::string_view topic = text.substr(4, 7);
            if (text[0] == 's') {
                ws->subscribe(topic);
                ws->send("ok", uWS::OpCode::TEXT);
            } else {
                app.publish(topic, text.substr(12), uWS::OpCode::TEXT);
            }
        },
    });
    app.listen("127.0.0.1", port, [](auto *socket) {
        if (!socket) std::exit(1);
        std::printf("%d\n", us_socket_local_port(0, (us_socket_t *)socket));
        std::fflush(stdout);
    });
    app.run();
}
