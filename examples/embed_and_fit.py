"""Drawn faces to a model, its figures and predictions; replace write_dataset by a folder of your own."""

import ferkit.datasets.synthetic

ferkit.datasets.synthetic.write_dataset("work/faces", n_per_class=40, n_persons=20)
data = ferkit.load_dataset("work/faces", person_pattern=r"^(p\d+)_")
store = ferkit.embed(data, "ferkit", cache_dir="work/cache")
model = ferkit.fit(store, head="logistic", C=0.01)
print(f"{model.report['accuracy']['value']:.0%} right of {model.report['n']} images of persons never seen")
model.save("work/models/logistic", overwrite=True)
for image in model.predict("work/faces/test/happy"):
    for face in image.faces:
        print(image.path, face.label, f"{face.confidence:.0%}")
