"""A client of the server in a few lines: an image by HTTP, then a video's frames by WebSocket.

fer serve
python examples/client.py photo.jpg talk.mp4
"""

import json
import struct
import sys
import urllib.request

import cv2
from websockets.sync.client import connect

PURPOSE = "research"


def main(photo: str, video: str, server: str = "127.0.0.1:8000") -> None:
    with open(photo, "rb") as file:
        asked = urllib.request.Request(f"http://{server}/v1/predict?purpose={PURPOSE}", file.read())
    for face in json.load(urllib.request.urlopen(asked))["images"][0]["faces"]:
        print(f"{face['label']} {face['confidence']:.0%} at {face['box']}")

    capture = cv2.VideoCapture(video)
    with connect(f"ws://{server}/v1/stream") as stream:
        stream.send(json.dumps({"type": "start", "purpose": PURPOSE, "fps": 10}))
        print("model", json.loads(stream.recv())["model"])
        number = 0
        while (read := capture.read())[0]:
            header = struct.pack("<Id", number, capture.get(cv2.CAP_PROP_POS_MSEC))
            stream.send(header + cv2.imencode(".jpg", read[1])[1].tobytes())
            answer = json.loads(stream.recv())
            print(number, [(face["id"], face["label"]) for face in answer["faces"]])
            number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
