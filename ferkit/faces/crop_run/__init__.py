"""``fer crop``: faces out of many pictures into files, resumable, with a reason for everything left out.

``settings`` say how; ``plan`` names every output before anything is read; ``picture`` decodes no more pixels than
needed; ``one`` turns one picture into outcomes; ``journal`` remembers them; ``run`` is the loop; ``tables`` and
``sheets`` show what came out.
"""
