"""The boundary between a device and a cloud: two sides that share nothing but messages.

What may cross is listed in one file, and crosses in one encoding through one door:

    Device -> Gate -> [faults] -> Network -> InProcess or Http -> Cloud
              counts, observers   virtual time

`messages` says what can be said at all, `wire` how it is written; `privacy` marks what cannot. A `Link` takes
frames and returns frames: in process, over HTTP, or around another link, as `Network` and the `faults` are. A
`Cloud` answers frames. A `Device` asks as its policy decides, waits no longer than its deadline, and serves
what came, what its cache has, or what its own model says. Neither imports the other (tested).

Two clocks, never added up: computing is measured; the network is modelled in virtual milliseconds that start
at 0 with every request, so that a result is a function of seed and trace.
"""
